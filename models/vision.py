"""The sample models of pictures: digits, and a small convolutional network.

A part of each data set is held out. The model that is written has not seen it, the figures are measured on it with
the ONNX file itself, and the example pictures come from it.
"""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from PIL import Image
from sklearn import datasets  # type: ignore[import-untyped]
from sklearn.cluster import KMeans  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]
from sklearn.neural_network import MLPClassifier  # type: ignore[import-untyped]
from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

from mlbuffet.manifest import ImageSettings

# isort: split
from sample import OPSETS, SEED, Floats, Sample, converted, finished, preceded, run, session

SEVEN = 393  # held out, and easier for a person to read than most

Pixels = NDArray[np.uint8]


def resized(picture: Image.Image, size: int) -> Pixels:
    """Scale to size x size; channels last, also for grey."""
    pixels = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))
    return pixels.reshape(size, size, -1)


def as_input(pixels: Pixels, settings: ImageSettings) -> Floats:
    """Apply image settings to pictures [N, H, W, C]; returns [N, C, H, W]."""
    scaled = pixels * settings.scale - np.array(settings.mean or 0.0)
    return np.ascontiguousarray((scaled / np.array(settings.std or 1.0)).transpose(0, 3, 1, 2), np.float32)


def encoded(picture: Image.Image, kind: str) -> bytes:
    """Give the bytes of a picture file."""
    stream = BytesIO()
    picture.save(stream, kind, quality=90)
    return stream.getvalue()


def recognised(sample: Sample, file: bytes) -> str:
    """Tell the label a model gives to a picture file, decoded and prepared as a model server does it."""
    channels, side = session(sample.content).get_inputs()[0].shape[1:3]
    pixels = resized(Image.open(BytesIO(file)).convert("L" if channels == 1 else "RGB"), side)
    first = run(sample.content, as_input(pixels[None], sample.image))[0]
    return sample.image.labels[int(first.argmax()) if first.ndim else int(first)]


def digits() -> Sample:
    """One hidden layer on 8x8 pixels, trained on the digits as they are and as they look after being enlarged."""
    images, labels = datasets.load_digits(return_X_y=True)
    grey = np.round(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    settings = ImageSettings(scale=16 / 255, labels=tuple("0123456789"))
    large = [Image.fromarray(image).resize((64, 64), Image.Resampling.BICUBIC) for image in grey]
    small = as_input(grey[..., None], settings)
    back = as_input(np.stack([resized(image, 8) for image in large]), settings)
    train, test = train_test_split(np.arange(len(labels)), test_size=0.25, stratify=labels, random_state=SEED)
    rows = np.concatenate([small[train], back[train]]).reshape(-1, 64)
    network = MLPClassifier((64,), alpha=1.0, max_iter=500, random_state=SEED)
    network.fit(rows, np.concatenate([labels[train]] * 2))
    description = (
        "Handwritten digit 0 to 9 in a grey picture, bright strokes on a dark ground. The input tensor holds 8x8 "
        "pixels from 0 to 16; a picture file of any size may be sent instead."
    )
    flat = [helper.make_node("Flatten", ["input"], ["features"])]
    content = finished(preceded(converted(network, 64, "features"), flat, [1, 8, 8]), "digits", description)
    exact, enlarged = (np.mean(run(content, version[test]) == labels[test]) for version in (small, back))
    if SEVEN not in test:
        msg = f"the example picture must be held out; digit {SEVEN} is not"
        raise ValueError(msg)
    return Sample(
        "digits.onnx",
        content,
        description,
        f"{len(train):,} digits of the UCI optical recognition data (Alpaydin and Kaynak, 1998); a network with 64 "
        "hidden units",
        f"accuracy {exact:.3f} on the {len(test)} other digits, {enlarged:.3f} when these come as 64x64 pictures "
        "(the same people wrote both parts)",
        golden=images[SEVEN].reshape(1, 8, 8).astype(np.float32),
        image=settings,
        pictures=(("seven.png", encoded(large[SEVEN], "PNG")),),
    )


def crops(photo: Image.Image, columns: tuple[int, int]) -> Pixels:
    """Cut squares of 32 and of 64 pixels, every 16 pixels, from a range of columns; all scaled to 32x32."""
    (left, right), bottom = columns, photo.height
    return np.stack([
        resized(photo.crop((x, y, x + side, y + side)), 32)
        for side in (32, 64)
        for y in range(0, bottom - side + 1, 16)
        for x in range(left, right - side + 1, 16)
    ])  # fmt: skip


def stem(batch: Floats, *, filters: int = 16, side: int = 5) -> tuple[list[NodeProto], list[TensorProto]]:
    """Learn convolution filters by k-means on whitened patches (Coates, Ng and Lee, 2011).

    Whitening is linear, so it is folded into the filters. Returns the nodes from `input` to `features`.
    """
    rng = np.random.default_rng(SEED)
    windows = np.lib.stride_tricks.sliding_window_view(batch, (side, side), axis=(2, 3))
    n, y, x = rng.integers(0, [len(windows), *windows.shape[2:4]], (20_000, 3)).T
    patches = windows[n, :, y, x].reshape(len(n), -1).astype(np.float64)
    values, vectors = np.linalg.eigh(np.cov(patches.T))
    whiten = vectors / np.sqrt(values + 0.1) @ vectors.T
    centres = KMeans(filters, n_init=1, random_state=SEED).fit((patches - patches.mean(0)) @ whiten).cluster_centers_
    weights = centres / np.linalg.norm(centres, axis=1, keepdims=True) @ whiten
    bias = -np.median(patches @ weights.T, axis=0)  # each filter is on for half of what it sees
    nodes = [
        helper.make_node("Conv", ["input", "filters", "thresholds"], ["convolved"]),
        helper.make_node("Relu", ["convolved"], ["active"]),
        helper.make_node("AveragePool", ["active"], ["pooled"], kernel_shape=[7, 7], strides=[7, 7]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
    ]
    arrays = {"filters": weights.reshape(filters, -1, side, side), "thresholds": bias}
    return nodes, [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]


def graph(nodes: Sequence[NodeProto], constants: Sequence[TensorProto], output: str, width: int) -> ModelProto:
    """Make a model from `input` [N, 3, 32, 32] to one output [N, width]."""
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 32, 32])]
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", width])]
    opsets = [helper.make_opsetid("", OPSETS[""])]
    return helper.make_model(helper.make_graph(nodes, "graph", inputs, outputs, constants), opset_imports=opsets)


def photo_classifier(photos: Sequence[Pixels], name: str, description: str) -> tuple[bytes, ImageSettings]:
    """Train on the crops of each class: convolution, rectifier, average pooling, logistic regression."""
    pixels = np.concatenate([side for pieces in photos for side in (pieces, pieces[:, :, ::-1])])  # and mirrored
    labels = np.repeat(np.arange(len(photos)), [2 * len(pieces) for pieces in photos])
    mean, std = ((pixels / 255).mean((0, 1, 2)).round(3), (pixels / 255).std((0, 1, 2)).round(3))
    settings = ImageSettings(1 / 255, tuple(map(float, mean)), tuple(map(float, std)), ("china", "flower"))
    batch = as_input(pixels, settings)
    nodes, constants = stem(batch)
    features = run(finished(graph(nodes, constants, "features", 256), name, ""), batch)
    scaler, head = StandardScaler().fit(features), LogisticRegression(C=0.01, max_iter=1000)
    head.fit(scaler.transform(features), labels)
    slope = head.coef_[0] / scaler.scale_
    offset = head.intercept_[0] - slope @ scaler.mean_
    ends = np.array([-0.5, 0.5])  # softmax of (-z/2, z/2) is the logistic function of z
    constants += [
        numpy_helper.from_array(np.outer(slope, ends).astype(np.float32), "slopes"),
        numpy_helper.from_array((offset * ends).astype(np.float32), "offsets"),
    ]
    nodes += [
        helper.make_node("Gemm", ["features", "slopes", "offsets"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    return finished(graph(nodes, constants, "probabilities", len(photos)), name, description), settings


def accuracy(content: bytes, settings: ImageSettings, photos: Sequence[Pixels]) -> float:
    """Measure the mean accuracy over the classes on crops of each."""
    guesses = (run(content, as_input(pieces, settings)).argmax(axis=1) for pieces in photos)
    return float(np.mean([np.mean(guess == label) for label, guess in enumerate(guesses)]))


def pictures() -> Sample:
    """Tell two photos by their pieces, with a small convolutional network trained on the left and measured right."""
    photos = [Image.fromarray(image) for image in datasets.load_sample_images().images]
    cut, width = 384, photos[0].width
    left, right = ([crops(photo, columns) for photo in photos] for columns in ((0, cut), (cut, width)))
    description = (
        "Tells whether a picture is a piece of the photo china (a pagoda over a lake) or of the photo flower (a "
        "dahlia): a small convolutional network that shows how picture files are sent."
    )
    content, settings = photo_classifier(left, "pictures", description)
    held_out = accuracy(content, settings, right)
    swapped = accuracy(*photo_classifier(right, "swapped", ""), left)
    boxes = ((cut + 192, 150), (cut, 190))
    pieces = [photo.crop((x, y, x + 64, y + 64)) for photo, (x, y) in zip(photos, boxes, strict=True)]
    golden = as_input(resized(pieces[1], 32)[None], settings)[0]
    return Sample(
        "pictures.onnx",
        content,
        description,
        f"{2 * sum(map(len, left)):,} pieces of 32x32 and 64x64 pixels (mirrored ones included) from the left {cut} "
        "columns of scikit-learn's two sample photos; 16 filters of 5x5x3 learnt by k-means, logistic regression on "
        "their pooled answers",
        f"accuracy {held_out:.3f}, mean of both classes, on {sum(map(len, right)):,} pieces from the other "
        f"{width - cut} columns; the same recipe trained on the right and measured on the left: {swapped:.3f}",
        golden=np.round(golden, 2),
        remark="It knows two photos, nothing more: any other picture is called one of them.",
        image=settings,
        pictures=(("china.jpg", encoded(pieces[0], "JPEG")), ("flower.jpg", encoded(pieces[1], "JPEG"))),
    )
