"""Writes the parts of the documentation that follow from the code: `make docs`, or with `--check` only looks.

A part stands between two markers, `<!-- generated: NAME -->` and `<!-- end of NAME -->`; everything else on a page is
written by hand. What the code cannot say, a sentence for each setting, stands here, and a setting without one is an
error.
"""  # noqa: INP001 - a script beside its pages, no package

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from inferrer.rpc.statuses import status_of
from inferrer.settings import InferrerSettings
from mlbuffet.errors import MLBuffetError, all_errors
from modelhost.settings import ModelhostSettings
from trainer.settings import TrainerSettings

DOCS = Path(__file__).resolve().parent
_PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end of \2 -->)", re.DOTALL)
_TYPES = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true or false",
    Path | None: "folder",
    tuple[str, ...]: "list, separated by commas",
}

INFERRER = {
    "host": "Address that the inferrer listens on; beyond loopback only where there are [API keys](keys.md).",
    "port": "Its port.",
    "grpc_port": "Its port for gRPC; 0: no gRPC.",
    "hosts": (
        "Names, without port, that a request's `Host` may have beside loopback's: `localhost`, `127.0.0.0/8`, `[::1]`. "
        "Any other one is answered `MISDIRECTED`; where there are API keys, only if this lists any."
    ),
    "origins": (
        "Origins, as `https://models.example`, whose web pages may ask although they are not this server's. Any other "
        "one is answered `ORIGIN_REFUSED`. For a proxy that changes `Host`. Of no matter where there are API keys."
    ),
    "trusted_proxies": (
        "Addresses, networks as `10.0.13.0/24`, or names of proxies whose `X-Forwarded-For` is believed where a "
        "client's address is counted or recorded. A name is looked up every second; the last good answer holds. "
        "Empty: nobody's."
    ),
    "key_hash": (
        "What API keys are hashed with: 64 hexadecimal digits, best from a file. Empty: random ones that the first key "
        "makes, in `.mlbuffet/key_hash` in the repository."
    ),
    "first_keys": "File of keys that a repository without keys begins with.",
    "trainer": (
        "Where the trainer is: `unix:/path` or `tcp://name:port`, over TCP with the certificates in "
        "`INFERRER_TLS_FOLDER`; it must be valid for `mlbuffet-trainer`. Empty: training is answered "
        "`TRAINER_UNAVAILABLE`."
    ),
    "trainer_key": (
        "The trainer's own key, 32 to 255 of `A-Z a-z 0-9 . _ -`, best from a file. It may write models and say which "
        "run made one, and counts with and without API keys. Empty: nobody may."
    ),
    "workers": "Processes that accept connections; 0 means one for each core that it may use.",
    "repository": "The model repository's folder. All inferrer processes stand on the same one.",
    "modelhosts": (
        "Where the modelhosts are: `unix:` with a socket or a folder of sockets, or `tcp://name:port`, where all "
        "addresses of the name count. Asked again every half second."
    ),
    "tls_folder": (
        "Folder with `ca.pem`, `cert.pem` and `key.pem` for mutual TLS 1.3 on `tcp://` channels, valid for "
        "`mlbuffet-inferrer`. Renewed files count for new connections. Empty: no TLS."
    ),
    "timeout_s": (
        "Seconds that a prediction may take where the request does not say (`X-Request-Timeout-Ms`; gRPC: the client's "
        "deadline), and that the message of a gRPC call may take to arrive."
    ),
    "upload_bytes": "The largest model file or form that is taken. A larger one is refused when it is announced.",
    "gzip_bytes": (
        "Answers of JSON or text from this size on are compressed where `Accept-Encoding` asks for it, which takes a "
        "millisecond for each 64 KiB and halves them. 0: never."
    ),
    "threads": (
        "Threads of each process that run Flask routes, half of them for requests whose body is still coming; another "
        "256 requests may wait for either half."
    ),
    "drain_notice_s": (
        "Seconds after SIGTERM in which readiness fails already and connections are still taken, so that whoever "
        "balances moves on; each answer then ends its connection. Longer than it takes the balancer to ask."
    ),
    "drain_s": "Seconds that requests in flight get after that.",
    "head_s": "Seconds that a request's head may take to arrive.",
    "body_idle_s": (
        "Seconds without a byte of a request's body after which it is answered `REQUEST_TIMEOUT`, and in which a "
        "client is to take something of its answer. On the whole, both are to go at 500 bytes a second or faster."
    ),
    "keep_alive_s": "Seconds that a connection without a request is kept.",
    "sweep_s": "Seconds between two looks for what dead processes left in the repository, and the least age of that.",
    "slow_s": "Seconds above which a request that succeeded is logged too, as `slow request`; 0: never.",
    "access_log": "Whether each request is logged, as `request`, not only what failed, changed something or was slow.",
    "traces_endpoint": (
        "Collector of [traces](architecture.md#traces), `http(s)://host:port`, which is sent OTLP over HTTP at "
        "`/v1/traces`. Empty: nothing is recorded, and a client's `traceparent` still passed on."
    ),
    "traces_share": (
        "Share of the requests that are recorded, of those that come without a `traceparent`; one that comes with it "
        "is recorded if it says so. From 0 to 1."
    ),
    "lane": "Whether JSON predictions are answered on the event loop, ahead of Flask. Off: same answers, slower.",
    "cache_bytes": (
        "Memory that each process may take for answers that are given again, for models that ask for it "
        '(`{"serving": {"cache": true}}`); 0: for none.'
    ),
    "metrics_folder": "Folder for the counters that the processes share. Empty: a temporary one, gone at the end.",
    "log_level": "`DEBUG`, `INFO`, `WARNING` or `ERROR`.",
}

MODELHOST = {
    "id": "Its name in answers and logs. Empty: the machine's name and eight random digits.",
    "channel": (
        "Where inferrers connect: `tcp://host:port`, beyond loopback only with TLS, or `unix:` and a socket's path, or "
        "both. In a folder, `unix:/folder/`, the socket is named after the modelhost, and what ended ones have left is "
        "removed. An inferrer that finds both ways uses the socket."
    ),
    "tls_folder": (
        "As for the inferrer. The certificates name roles: this service's must be valid for `mlbuffet-modelhost`, and "
        "only one that is valid for `mlbuffet-inferrer` may connect. Renewed files count for new connections."
    ),
    "host": "Address for health, metrics and the list of what is loaded. Loopback only.",
    "port": "Its port; 0 takes a free one, which the log names.",
    "metrics_port": (
        "Port on all addresses where who has a certificate for `mlbuffet-metrics`, as Prometheus, gets the metrics by "
        "TLS 1.3. Needs `MODELHOST_TLS_FOLDER`. 0: none."
    ),
    "repository": "The model repository's folder, the one that the inferrer writes; for a mirror, a folder of its own.",
    "mirror": (
        "Whether the repository's volume is not here, as on another node: the modelhost is then told by the inferrers "
        "what is in it, and fetches what it runs. Several mirrors may share a folder."
    ),
    "memory_bytes": (
        "Memory that loaded models may take together; 0 means 40 % of what the machine or the container has."
    ),
    "model_memory_bytes": (
        "Memory that one model's process may take for itself; 0 means as much as all together. What needs more is "
        "answered `RESOURCE_LIMIT`; a process that has grown to three quarters of it is replaced between two requests."
    ),
    "cores": (
        "Processor cores that it counts on; 0 means those that it may run on, or that its container has time for. "
        "Where several modelhosts share a machine, as under `mlbuffet up`, each gets its part."
    ),
    "runners": "The most processes that one model version may have here, whatever it asks for; 0 for any number.",
    "threads": (
        "The most threads that one run of a model may have here, whatever it asks for; 0 for any number. How many it "
        "has is measured when it is loaded, unless its serving settings say."
    ),
    "queue": "Requests of one model version that may wait or run; the next one is answered `QUEUE_FULL`.",
    "drain_s": (
        "Seconds that predictions under way get when the modelhost is stopped. What is not done then is sent once more "
        "to another one."
    ),
    "slow_s": "Seconds above which a request that succeeded is logged, with how long each step took; 0: never.",
    "traces_endpoint": "As for the inferrer, which decides what is recorded.",
    "log_level": "`DEBUG`, `INFO`, `WARNING` or `ERROR`.",
}


TRAINER = {
    "channel": (
        "Where inferrers connect: `unix:` and a socket's path, for processes of the same user, or `tcp://host:port`, "
        "beyond loopback only with TLS."
    ),
    "tls_folder": (
        "As for the inferrer: this service's certificate must be valid for `mlbuffet-trainer`, and only one that is "
        "valid for `mlbuffet-inferrer` may connect."
    ),
    "host": "Address for health and metrics. Loopback only.",
    "port": "Its port; 0 takes a free one, which the log names.",
    "metrics_port": "As the modelhost's; needs `TRAINER_TLS_FOLDER`.",
    "folder": "Where runs are kept: what was sent, the log, what became of them.",
    "engines": (
        "Docker engines that scripts run on, each with the number of runs that it takes at once: "
        "`tcp://node1:2376=2,unix:///var/run/docker.sock=1`. Empty: no training."
    ),
    "unisolated": (
        "Without engines: how many scripts run at once as child processes, with limits and without isolation; only "
        "over a unix socket, since a script may do whatever the user may whose trainer it is. 0: none."
    ),
    "docker_certs": (
        "Folder with `ca.pem`, `cert.pem` and `key.pem` for engines over TCP. The engine's own certificate must be of "
        "this authority and name the address. Renewed files count for what is asked next."
    ),
    "image": "The image that scripts run in; pulled when an engine lacks it. A request cannot name another one.",
    "index_url": "The package index that requirements come from; empty: the one that the image is set up for.",
    "index_ca": "File with the authority of the index's certificate; empty: those that the image knows.",
    "sdists": (
        "Whether requirements may come as source packages, whose own programs then run while they are built, with "
        "the network; else wheels only."
    ),
    "urls": "Whether a requirement may name an address.",
    "inferrer": "The inferrer's address, where models are uploaded.",
    "inferrer_ca": "File with the authority of the inferrer's certificate, where its address is `https://`.",
    "key": "The same as `INFERRER_TRAINER_KEY`, best from a file. Empty: models are uploaded as anybody does.",
    "queue": "Runs that may wait; the next one is answered `QUEUE_FULL`.",
    "timeout_s": "Seconds that a script may run where the request does not say.",
    "most_timeout_s": "The most that a request may ask for.",
    "memory_bytes": "Memory that a script may take where the request does not say, all its processes together.",
    "most_memory_bytes": "The most that a request may ask for.",
    "cpus": "Processor cores that a script has time for where the request does not say.",
    "most_cpus": "The most that a request may ask for.",
    "pids": "Processes and threads that a script may have.",
    "work_bytes": "Size of the folder that a script works in, which is in memory: dataset, model and all it writes.",
    "work_files": "How many files may be in it.",
    "tmp_bytes": "Size of a script's `/tmp`, likewise.",
    "script_bytes": "The largest script that is taken.",
    "dataset_bytes": "The largest dataset that is taken, all its files together.",
    "model_bytes": "The largest model that a script may leave.",
    "log_bytes": "How much is kept of what a script prints.",
    "prepare_s": "Seconds that installing requirements may take.",
    "environment_bytes": "Disk that installed requirements may take.",
    "environments": "How many different sets of installed requirements an engine keeps; the least recently used leave.",
    "register_s": "Seconds in which an inferrer that cannot take a model now is asked again.",
    "keep_runs": "How many runs that have ended are kept; the oldest leave, their models stay.",
    "outputs": "Folder in which each run's model and log are left too, in a folder of the run's id. Empty: nowhere.",
    "drain_s": "Seconds that what is under way in the trainer itself gets when it is stopped; scripts go on.",
    "log_level": "`DEBUG`, `INFO`, `WARNING` or `ERROR`.",
}


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def settings_table(cls: type[Any], prefix: str, sentences: Mapping[str, str]) -> str:
    """Every field of a settings dataclass as an environment variable.

    Raises:
        ValueError: a setting without a sentence, or a sentence without a setting.
    """
    hints = get_type_hints(cls)
    specs = fields(cls)
    stray = {spec.name for spec in specs} ^ sentences.keys()
    if stray:
        msg = f"settings and sentences differ for {prefix}: {', '.join(sorted(stray))}"
        raise ValueError(msg)
    rows = (
        [f"`{prefix}{spec.name.upper()}`", _TYPES[hints[spec.name]], _default(spec.default), sentences[spec.name]]
        for spec in specs
    )
    return table(("Variable", "Type", "Default", "What it does"), rows)


def _default(value: object) -> str:
    """A default as one writes it into the variable."""
    text = ",".join(value) if isinstance(value, tuple) else "" if value is None else str(value)
    text = text.lower() if isinstance(value, bool) else text
    return f"`{text}`" if text else "empty"


def error_table() -> str:
    """Every error that a client can see, by status, then in the order of the tree."""
    found = sorted(all_errors(), key=lambda error: error.status)
    return table(("Status", "gRPC", "Code", "Try again", "Meaning"), map(_error_row, found))


def _error_row(error: type[MLBuffetError]) -> Sequence[str]:
    again = "yes" if error.retryable else "no"
    if error.retry_after_s is not None:
        again += f", `Retry-After: {error.retry_after_s}`"
    meaning = (error.__doc__ or "").splitlines()[0]
    return str(error.status), f"`{status_of(error(meaning)).name}`", f"`{error.code}`", again, meaning


PARTS: Mapping[str, Callable[[], str]] = {
    "errors": error_table,
    "inferrer_settings": lambda: settings_table(InferrerSettings, "INFERRER_", INFERRER),
    "modelhost_settings": lambda: settings_table(ModelhostSettings, "MODELHOST_", MODELHOST),
    "trainer_settings": lambda: settings_table(TrainerSettings, "TRAINER_", TRAINER),
}


def filled(page: str) -> str:
    """A page with its generated parts made anew.

    Raises:
        KeyError: it asks for a part that nobody makes.
    """
    return _PART.sub(lambda found: f"{found[1]}\n{PARTS[found[2]]()}\n\n{found[3]}", page)


def main(arguments: Sequence[str]) -> int:
    """Bring the pages up to date, or say which ones are not; returns the exit status."""
    stale = []
    for path in sorted(DOCS.glob("*.md")):
        page = path.read_text(encoding="utf-8")
        if filled(page) == page:
            continue
        stale.append(path.name)
        if "--check" not in arguments:
            path.write_text(filled(page), encoding="utf-8")
    if stale and "--check" in arguments:
        sys.stderr.write(f"out of date, run `make docs`: {', '.join(stale)}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
