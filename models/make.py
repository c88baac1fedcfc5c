"""Train the sample models from real data that scikit-learn ships, and write them as a model repository.

`python models/make.py [--out DIR]`; without --out the files go beside this script. Nothing is downloaded. Seeds, the
`created` time and the producer's name are constants and all arithmetic runs on one thread, so the same libraries on the
same kind of CPU give the same bytes. Every figure in README.md is computed when it is written.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from string import Template
from textwrap import fill
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from mlbuffet.manifest import MANIFEST_FILE, MODEL_FILE, Manifest, Signature, TensorSpec

# isort: split
from sample import Floats, Sample, run, session
from tables import diabetes, iris, wine
from vision import digits, pictures, recognised

HERE = Path(__file__).resolve().parent
CREATED = "2026-01-01T00:00:00+00:00"
VERSION = 1
MODELS: tuple[Callable[[], Sample], ...] = (iris, wine, diabetes, digits, pictures)
DATATYPES = {"tensor(float)": "FP32", "tensor(int64)": "INT64"}
LONGEST_EXAMPLE = 200
WIDTH = 120

README = Template("""\
# Sample models

Small models, each trained from real data, in the layout of a model repository: `<model>/<version>/model.onnx` with
its `manifest.json`, and `<model>/default`, which names the version that answers. `make models` makes all of it again,
this page too, from the data sets that scikit-learn ships; nothing is downloaded.

Accuracy is measured on data that the measured model has not seen. *Golden* is an input, and the answer that a model
server must give to it; the full one stands in the manifest.

$models
## Where the data comes from

The tables and the digits are the copies in scikit-learn (BSD licence). The two photos are used under
[CC BY 2.0](https://creativecommons.org/licenses/by/2.0/); the pieces in `images/` are cropped and saved anew:

- china: by [danielbuechele](https://www.flickr.com/photos/danielbuechele/6061409035/)
- flower: by [vultilion](https://www.flickr.com/photos/vultilion/6056698931/)
""")

SECTION = Template("""\
## `$name`

$about

| | name | datatype | shape |
|---|---|---|---|
$signature

$examples
""")


def plain(array: NDArray[Any]) -> Any:  # noqa: ANN401 - a JSON value of any depth
    """Turn an array into JSON lists; a float32 becomes the shortest number that reads back as the same float32."""
    if array.dtype != np.float32:
        return array.tolist()
    return np.array([float(str(number)) for number in array.flat]).reshape(array.shape).tolist()


def answer(sample: Sample, observation: Floats) -> Any:  # noqa: ANN401 - a JSON value of any depth
    """Give what the V1 API answers for one observation: the first output for a batch of one."""
    return plain(run(sample.content, observation[None]))


def signature(content: bytes) -> Signature:
    """Read inputs and outputs as ONNX Runtime sees them; an axis that has a name there is dynamic."""
    opened = session(content)
    inputs, outputs = (
        tuple(
            TensorSpec(node.name, DATATYPES[node.type], tuple(a if isinstance(a, int) else None for a in node.shape))
            for node in nodes
        )
        for nodes in (opened.get_inputs(), opened.get_outputs())
    )
    return Signature(inputs, outputs)


def manifest(sample: Sample) -> Manifest:
    """Say of a sample what an upload would have recorded."""
    return Manifest(
        model=sample.name,
        version=VERSION,
        digest=f"sha256:{hashlib.sha256(sample.content).hexdigest()}",
        size_bytes=len(sample.content),
        created=CREATED,
        source="sample",
        signature=signature(sample.content),
        description=sample.description,
        image=sample.image,
        golden={"values": plain(sample.golden), "result": answer(sample, sample.golden)},
    )


def examples(sample: Sample) -> Iterable[str]:
    """List inputs and answers for README.md: the golden one, others, and picture files."""
    values = json.dumps({"values": plain(sample.golden)})
    if len(values) > LONGEST_EXAMPLE:
        values = f'{{"values": …}} ({sample.golden.size:,} numbers, shape {list(sample.golden.shape)})'
    yield f"- golden: `{values}` → `{json.dumps({'values': answer(sample, sample.golden)})}`"
    for probe in sample.probes:
        result = answer(sample, np.array(probe, np.float32))
        yield f"- `{json.dumps({'values': probe})}` → `{json.dumps({'values': result})}`"
    for name, content in sample.pictures:
        yield f"- [`images/{name}`](images/{name}) → `{recognised(sample, content)}`"


def wrapped(text: str, *, indent: str = "") -> str:
    """Break a paragraph or list item into lines, as a person would have."""
    return fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def about(sample: Sample) -> str:
    """Say for README.md what a model does and how well."""
    points = (
        f"- Trained on: {sample.trained_on}.",
        f"- Measured: {sample.measured}.",
        f"- File: {len(sample.content):,} bytes.",
    )
    listed = "\n".join(wrapped(point, indent="  ") for point in points)
    return "\n\n".join(filter(None, (wrapped(sample.description), listed, wrapped(sample.remark))))


def section(sample: Sample) -> str:
    """Write what README.md says of one model."""
    recorded = manifest(sample)
    specs = [("input", spec) for spec in recorded.signature.inputs]
    specs += [("output", spec) for spec in recorded.signature.outputs]
    rows = (
        f"| {kind} | `{spec.name}` | {spec.datatype} | [{', '.join(str(axis or 'N') for axis in spec.shape)}] |"
        for kind, spec in specs
    )
    return SECTION.substitute(
        name=sample.name,
        about=about(sample),
        signature="\n".join(rows),
        examples="\n".join(examples(sample)),
    )


def write(sample: Sample, out: Path) -> None:
    """Write one model's version, its default pointer and its example pictures."""
    folder = out / sample.name / str(VERSION)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MODEL_FILE).write_bytes(sample.content)
    text = json.dumps(manifest(sample).to_json(), indent=2, ensure_ascii=False) + "\n"
    (folder / MANIFEST_FILE).write_text(text, encoding="utf-8")
    (folder.parent / "default").write_text(f"{VERSION}\n", encoding="utf-8")
    for name, content in sample.pictures:
        (out / "images").mkdir(exist_ok=True)
        (out / "images" / name).write_bytes(content)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make every model; the command line."""
    parser = argparse.ArgumentParser(description="Train the sample models and write them as a model repository.")
    parser.add_argument("--out", type=Path, default=HERE, metavar="DIR", help="default: the folder of this script")
    out: Path = parser.parse_args(arguments).out
    sections = []
    with threadpool_limits(1):  # sums on several threads add in another order each time
        for make in MODELS:
            sample = make()
            write(sample, out)
            sections.append(section(sample))
            sys.stdout.write(f"{sample.name}: {sample.measured}\n")
    (out / "README.md").write_text(README.substitute(models="\n".join(sections)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
