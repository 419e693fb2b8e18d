"""Epochs of SGD on ResNet-20 and 256 images of CIFAR-10's shape, in mini-batches of 32.

Through a run of `cnognp.training`, judged as often as its default says, against a plain loop of
torch with as many updates. The images are random: time does not depend on what they show.
"""

from pathlib import Path

import torch
from timing import arguments, interleaved, report
from torch.nn.functional import cross_entropy

from cnognp.tasks import Task
from cnognp.tasks.networks import resnet20
from cnognp.tasks.task import accuracy
from cnognp.training.config import Config
from cnognp.training.session import Training

IMAGES, SIZE, EPOCHS, LR, MOMENTUM = 256, 32, 10, 0.05, 0.9


def make_task(images: int = IMAGES) -> Task:
    """The network with random weights, and random images."""
    generator = torch.Generator(device="cpu").manual_seed(0)
    inputs = torch.randn((images, 3, 32, 32), generator=generator)
    classes = torch.randint(10, (images,), generator=generator)
    metrics = {"accuracy": accuracy}
    return Task(resnet20(), cross_entropy, (inputs, classes), metrics=metrics, name="epoch")


def ours(images: int = IMAGES) -> Training:
    """A run that has not begun, and has no end."""
    return Training.of(
        Config(
            task=f"{Path(__file__)}:make_task",
            method="sgd",
            members=1,
            iterations=10**6,
            task_options={"images": images},
            method_options={"lr": LR, "momentum": MOMENTUM, "batch_size": SIZE},
        )
    )


def plain(images: int = IMAGES):
    """The same by hand: a function that trains for one epoch."""
    task = make_task(images)
    inputs, classes = task.train
    model = task.model.train()
    optimiser = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)

    def epoch() -> None:
        for chosen in torch.randperm(len(inputs)).split(SIZE):
            optimiser.zero_grad()
            cross_entropy(model(inputs[chosen]), classes[chosen]).backward()
            optimiser.step()

    return epoch


def main() -> None:
    """Times both in turns."""
    options = arguments(__doc__)
    training, epoch = ours(), plain()

    def run() -> None:
        training.advance(lambda training, info: training.iteration % EPOCHS == 0)

    def loop() -> None:
        for _ in range(EPOCHS):
            epoch()

    seconds = interleaved({"run": run, "loop": loop}, options.rounds)
    rows = {f"{name}, images/s": IMAGES * EPOCHS / taken for name, taken in seconds.items()}
    report(
        "an epoch of ResNet-20",
        {**rows, "run / loop": seconds["loop"] / seconds["run"]},
        options,
    )


if __name__ == "__main__":
    main()
