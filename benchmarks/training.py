"""Training of ResNet-20 on random images of CIFAR-10's shape, beside plain loops of torch.

A run is `cnognp.training.train` from its configuration to its last checkpoint: 20 epochs of 1,024
images in mini-batches of 128, judged as its default says, checkpoints and the scores at its end
included. Beside it are a DataLoader with torchvision's transforms, and tensors that are normalised
in memory and not augmented, against a run without augmentation. Both loops have as many updates,
and evaluate as often: the training images before the first epoch and after the first, the tenth and
the last, where the other splits follow. A run does more: it estimates the statistics of BatchNorm
anew wherever it judges, and tells the gradient where it ends.

Then two members of CNOGNP, ranked by their epochs, against two such loops, one after the other, and
epochs of SAM and GCSAM, which nobody judges, against two of SGD.
"""

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from timing import arguments, interleaved, report
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from cnognp.methods import METHODS
from cnognp.run import run
from cnognp.tasks import Task
from cnognp.tasks.architectures import memory_format
from cnognp.tasks.networks import resnet20
from cnognp.tasks.problem import Problem
from cnognp.tasks.task import accuracy
from cnognp.training.config import Config, RunFolder
from cnognp.training.session import train
from landscape.networks import cropped_and_flipped, normalised

IMAGES, HELD, SIZE, EPOCHS, LR, MOMENTUM = 1024, 256, 128, 20, 0.05, 0.9
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
normal = partial(
    normalised, mean=MEAN, deviation=DEVIATION, memory_format=memory_format("resnet20")
)


def drawn(images: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random images, bytes, and classes."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    pixels = torch.randint(256, (images, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return pixels, torch.randint(10, (images,), generator=generator)


def augmented(images: Tensor, seed: int, step: int) -> Tensor:
    """What training sees of a mini-batch, as in the task cifar10."""
    return cropped_and_flipped(images, seed, 0, step)


def make_task(augment: bool = True) -> Task:
    """The network with random weights, and random images."""
    return Task(
        resnet20(), cross_entropy, drawn(IMAGES, 0), drawn(HELD, 1), drawn(HELD, 2),
        metrics={"accuracy": accuracy}, name="training", prepare=normal,
        augment=augmented if augment else None,
    )  # fmt: skip


def ran(augment: bool, method: str = "sgd", members: int = 1, **options: object) -> None:
    """A run from its configuration to its end."""
    keys = {"lr": LR, "momentum": MOMENTUM, "batch_size": SIZE, **options}
    config = Config(
        f"{Path(__file__)}:make_task", method, members, EPOCHS, threads=torch.get_num_threads(),
        device="cpu", task_options={"augment": augment}, method_options=keys,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        train(config, RunFolder(Path(folder) / "run"))


class Pictures(Dataset):
    """Images as torchvision's data sets give them: a PIL image that transforms change."""

    def __init__(self, images: Tensor, classes: Tensor, transform: Callable):
        self.images = images.permute(0, 2, 3, 1).contiguous().numpy()
        self.classes, self.transform = classes.tolist(), transform

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[place])), self.classes[place]


def loaders() -> list[Iterable]:
    """Mini-batches for training, and of every split, through torchvision's transforms."""
    from torchvision import transforms

    plain = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, DEVIATION)])
    changed = transforms.Compose([
        transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), plain,
    ])  # fmt: skip
    first = DataLoader(Pictures(*drawn(IMAGES, 0), changed), SIZE, shuffle=True)
    splits = ((IMAGES, 0), (HELD, 1), (HELD, 2))
    return [first, *(DataLoader(Pictures(*drawn(n, s), plain), 256) for n, s in splits)]


class InMemory:
    """Mini-batches of tensors, in another order every time where they are shuffled."""

    def __init__(self, images: int, seed: int, size: int, shuffled: bool):
        pixels, self.classes = drawn(images, seed)
        self.inputs, self.size, self.shuffled = normal(pixels), size, shuffled

    def __iter__(self):
        count = len(self.classes)
        order = torch.randperm(count) if self.shuffled else torch.arange(count)
        for chosen in order.split(self.size):
            yield self.inputs[chosen], self.classes[chosen]


def in_memory() -> list[Iterable]:
    """The same from tensors that are normalised already, without augmentation."""
    splits = ((IMAGES, 0), (HELD, 1), (HELD, 2))
    return [
        InMemory(IMAGES, 0, SIZE, shuffled=True),
        *(InMemory(images, seed, 256, shuffled=False) for images, seed in splits),
    ]


def loop(batches: Callable[[], list[Iterable]]) -> None:
    """Plain training by torch.optim.SGD."""
    first, trained, *others = batches()
    model = resnet20()
    optimiser = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    evaluated(model, trained)
    for epoch in range(1, EPOCHS + 1):
        model.train()
        for inputs, target in first:
            optimiser.zero_grad()
            cross_entropy(model(inputs), target).backward()
            optimiser.step()
        if epoch in (1, 10, EPOCHS):
            evaluated(model, trained)
    for split in others:
        evaluated(model, split)


def evaluated(model: torch.nn.Module, batches: Iterable) -> tuple[float, float]:
    """Mean loss and accuracy."""
    model.eval()
    loss = right = count = 0.0
    with torch.no_grad():
        for inputs, target in batches:
            told = model(inputs)
            loss += float(cross_entropy(told, target, reduction="sum"))
            right += float((told.argmax(-1) == target).sum())
            count += len(target)
    return loss / count, right / count


def epochs(method: str) -> Callable[[], object]:
    """A function that trains an epoch by a method of ours, which nobody judges."""
    problem = Problem(make_task(False), torch.device("cpu"), data_seed=0, noise_seed=0)
    moving = replace(METHODS[method](lr=LR, momentum=MOMENTUM, batch_size=SIZE), evaluate=False)
    start = problem.training.point()[None]
    generator = torch.Generator(device="cpu").manual_seed(0)
    rounds = run(moving, problem.stream(moving, 0), start, generator)
    return lambda: next(rounds)


def main() -> None:
    """Times all in turns, what takes least first."""
    options = arguments(__doc__)
    torch.manual_seed(0)
    epoch = interleaved({name: epochs(name) for name in ("sgd", "sam", "gcsam")}, options.rounds)
    rows = {f"{name} / two epochs of sgd": epoch[name] / (2 * epoch["sgd"]) for name in epoch}
    report("epochs that nobody judges", rows, options)
    seconds = interleaved(
        {
            "run": partial(ran, True),
            "DataLoader": partial(loop, loaders),
            "run without augmentation": partial(ran, False),
            "in memory": partial(loop, in_memory),
            "two members": partial(ran, False, "cnognp", 2, fitness_from="epoch"),
        },
        options.rounds,
    )
    rows = {f"{name}, images/s": IMAGES * EPOCHS / taken for name, taken in seconds.items()}
    rows["two members, images/s"] *= 2
    rows |= {
        "DataLoader / run": seconds["DataLoader"] / seconds["run"],
        "in memory / run": seconds["in memory"] / seconds["run without augmentation"],
        "two members / two loops": seconds["two members"] / (2 * seconds["in memory"]),
    }
    report("training of ResNet-20", rows, options)


if __name__ == "__main__":
    main()
