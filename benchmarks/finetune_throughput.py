"""Training throughput of medge against a plain PyTorch loop, EfficientNet-Lite0 at 224 px, all layers learning.

    python benchmarks/finetune_throughput.py [--data ../shared/data/chest-xray] [--rounds 5] [--batches 3]

The plain loop: torchvision's ImageFolder, v2's RandomAffine, RandomHorizontalFlip and Normalize in a DataLoader without
workers, the same timm model in float32 in PyTorch's own layout, AdamW. medge: the finetune stage's own epoch
(`training.train_epoch` over `augmented_batches`) from the decoded uint8 file that the data stage makes once. Both take
the same images, batch size and augmentation ranges, and run in turn, block by block, in random order; a block's rate
is images over wall seconds; beside it stands images over the processor seconds that the block used, which other work on
the machine disturbs less. Writes benchmarks/results/finetune_throughput.json. Aim: ratio at least 2.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medge import model as models
from medge import training
from medge.data.dataset import DataSet
from medge.devices import local
from medge.records import Preprocess, write_json
from medge.runtime.preprocess import prepare
from medge.sections import Augment

RESULT = Path(__file__).parent / "results" / "finetune_throughput.json"
AIM, SIZE, BATCH = 2.0, 224, 32
AUGMENT = Augment()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data" / "chest-xray")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=3, help="batches in a block")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images = select(chosen.data, Path(folder), count=BATCH * chosen.batches)
        began = time.perf_counter()
        data = decode(images, Path(folder))
        decode_ms = (time.perf_counter() - began) * 1000 / len(data)
        sides = {"plain": plain_blocks(Path(folder) / "images"), "medge": medge_blocks(data)}
        for blocks in sides.values():
            next(blocks)  # warm up: kernels chosen, memory taken
        rates: dict[str, list[float]] = {name: [] for name in sides}
        cpu_rates: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(chosen.rounds):
            for name in random.Random(number).sample(sorted(sides), 2):
                began, cpu_began = time.perf_counter(), time.process_time()
                count = next(sides[name])
                rates[name].append(count / (time.perf_counter() - began))
                cpu_rates[name].append(count / (time.process_time() - cpu_began))
                print(f"{name}: {rates[name][-1]:.1f} images/s", file=sys.stderr, flush=True)
    report(rates, cpu_rates, decode_ms, chosen)


def select(source: Path, folder: Path, *, count: int) -> list[Path]:
    """Links to `count` images, half of each of two classes, in folders as ImageFolder wants them."""
    found = []
    for name in sorted(p.name for p in source.iterdir() if p.is_dir())[:2]:
        (folder / "images" / name).mkdir(parents=True)
        for path in sorted((source / name).iterdir())[: count // 2]:
            link = folder / "images" / name / path.name
            link.symlink_to(path.resolve())
            found.append(link)
    return found


def decode(images: list[Path], folder: Path) -> DataSet:
    """What the data stage does once: decoded and resized pixels in one file."""
    preprocess = Preprocess(SIZE, SIZE)
    names = sorted({p.parent.name for p in images})
    with open(folder / "images.u8", "wb") as stream:
        for path in images:
            stream.write(prepare(path, preprocess).tobytes())
    text = tuple(p.name for p in images)
    label = np.array([names.index(p.parent.name) for p in images])
    split = np.array(["train"] * len(images))
    return DataSet(folder, "bench", tuple(names), preprocess, False, "", text, text, text, label, split, {})


def classifier() -> models.Classifier:
    torch.manual_seed(0)
    spec = models.specify("tf_efficientnet_lite0", classes=2, head="batchnorm", dropout=0.2, size=SIZE)
    return models.create(spec)


def plain_blocks(folder: Path) -> Iterator[int]:
    """A block is one pass over the images; yields how many there were."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import InterpolationMode, v2

    model = classifier().to(memory_format=torch.contiguous_format)
    network = torch.nn.Sequential(model.backbone, model.head).train()
    transform = v2.Compose(
        [
            v2.RandomAffine(AUGMENT.rotation_degrees, scale=AUGMENT.zoom, interpolation=InterpolationMode.BILINEAR),
            v2.RandomHorizontalFlip(AUGMENT.flip_probability),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(model.spec.mean, model.spec.std),
        ]
    )
    images = ImageFolder(str(folder), transform)
    loader = torch.utils.data.DataLoader(images, BATCH, shuffle=True, drop_last=True)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4)
    loss = torch.nn.CrossEntropyLoss()
    while True:
        for inputs, labels in loader:
            optimizer.zero_grad()
            value = loss(network(inputs), labels)
            value.backward()
            optimizer.step()
        yield len(loader) * BATCH


def medge_blocks(data: DataSet) -> Iterator[int]:
    """The same through the finetune stage's epoch, all blocks unfrozen."""
    model = classifier()
    training.set_learning(model, len(training.blocks(model.backbone)))
    optimizer = training.optimizer_for(model, learning_rate=1e-4, block_decay=1.0, weight_decay=0.01)
    device = torch.device("cpu")
    dtype = training.training_dtype("auto", device)
    rows = data.indices("train")
    for epoch in itertools.count():
        batches = training.augmented_batches(data, rows, AUGMENT, batch_size=BATCH, seed=0, epoch=epoch)
        training.train_epoch(
            lambda images: model(images)[0], batches, optimizer,
            loss=torch.nn.CrossEntropyLoss(), factors=lambda _: 1.0, device=device, dtype=dtype,
        )  # fmt: skip
        yield training.batch_count(len(rows), BATCH) * BATCH


Rates = dict[str, list[float]]


def report(rates: Rates, cpu_rates: Rates, decode_ms: float, chosen: argparse.Namespace) -> None:
    pairs = [ours / plain for ours, plain in zip(rates["medge"], rates["plain"], strict=True)]
    cpu_pairs = [ours / plain for ours, plain in zip(cpu_rates["medge"], cpu_rates["plain"], strict=True)]
    ratio = statistics.median(pairs)
    result: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "machine": local.facts(),
        "load_average": os.getloadavg(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "precision": str(training.training_dtype("auto", torch.device("cpu"))),
        "batch_size": BATCH,
        "images_per_block": BATCH * chosen.batches,
        "images_per_second": rates,
        "median_images_per_second": {name: statistics.median(values) for name, values in rates.items()},
        "ratio_of_each_round": pairs,
        "ratio": ratio,
        "aim": AIM,
        "reached": ratio >= AIM,
        "images_per_cpu_second": cpu_rates,
        "cpu_ratio": statistics.median(cpu_pairs),
        "decode_once_ms_per_image": decode_ms,
    }
    write_json(RESULT, result)
    print(f"medge / plain: {ratio:.2f} (aim {AIM}), rounds {min(pairs):.2f} to {max(pairs):.2f}")
    print(f"by processor time: {result['cpu_ratio']:.2f}")


if __name__ == "__main__":
    main()
