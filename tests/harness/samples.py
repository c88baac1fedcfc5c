"""What a service shows to Prometheus, as the official parser reads it."""

import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.harness.invariants import modelhost_url
from tests.harness.platform import RunningPlatform

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def exposition(platform: RunningPlatform, service: str = "inferrer") -> str:
    """A service's metrics as they are sent."""
    url = platform.url if service == "inferrer" else modelhost_url(platform, service)
    answer = requests.get(f"{url}/metrics", headers=platform.headers(), timeout=30)
    assert answer.status_code == 200
    return answer.content.decode()


def parsed(text: str) -> tuple[Samples, set[str]]:
    """Every sample, and the names of those that never fall."""
    samples: Samples = {}
    growing = set()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples[sample.name, frozenset(sample.labels.items())] = sample.value
            if family.type in {"counter", "histogram"}:
                growing.add(sample.name)
    return samples, growing


def total(samples: Samples, name: str, **labels: str) -> float:
    """The sum of a name's samples that have these labels."""
    return sum(value for (found, has), value in samples.items() if found == name and has >= set(labels.items()))
