"""The methods as optimisers of torch, for people who keep their own training loop.

    optimiser = SAM(model.parameters(), torch.optim.AdamW, rho=0.05, lr=1e-3, model=model)

    def closure():
        loss = criterion(model(inputs), target)
        loss.backward()
        return loss

    optimiser.step(closure)

A step may evaluate several points, so that it takes a closure. The gradients are cleared before
every call of it; whatever it does to them after ``backward`` (clipping, for one) counts, and a
closure that accumulates gradients calls ``backward`` several times. Line searches compare values:
they, and basin hopping, need a closure that gives the same loss for the same weights, so no dropout
and one mini-batch. A closure with a parameter ``backward`` is called as ``closure(backward=False)``
where its value is enough.

`SAM`, `ASAM`, `GCSAM` and `GNP` wrap any other optimiser, whose parameter groups they share. They
also work in loops without closures:

    criterion(model(inputs), target).backward()
    optimiser.first_step(zero_grad=True)
    criterion(model(inputs), target).backward()
    optimiser.second_step(zero_grad=True)

After ``first_step`` a plain ``optimiser.step()`` is the second one, so that somebody else's loop
may call it. With the Trainer of Hugging Face, which calls ``step()`` without a closure through a
wrapper, it is enough to compute the gradients twice:

    class SharpTrainer(Trainer):
        seen = ()

        def training_step(self, model, inputs, *more):
            loss = super().training_step(model, inputs, *more)
            self.seen = [*self.seen, inputs]
            if self.accelerator.sync_gradients:
                self.optimizer.optimizer.first_step(zero_grad=True)
                for each in self.seen:
                    super().training_step(model, each, *more)
                self.seen = ()
            return loss

and to give it ``optimizers=(SAM(model.parameters(), torch.optim.AdamW, ...), None)``; the lists are
there for accumulated gradients. What it clips are the gradients of the second pass.

Parameters with ``requires_grad=False`` are left alone, and so are those that ``backward`` did not
reach, with their velocities, running means and step counts. A learning rate may be 0.
``torch.autocast`` with bfloat16 works inside the closure. ``torch.amp.GradScaler`` takes no closure
and rescales gradients of one evaluation only: methods that need several refuse it, but for the four
above with ``first_step``.

Every method is an optimiser, `named` as ``cnognp methods`` lists it: ``named("lion")``. A swarm of
one member has nobody to follow, so that methods whose members learn from each other are none.
"""

from cnognp.torch_optim.method_optimizer import MethodOptimizer
from cnognp.torch_optim.methods import (
    ASAM,
    BFGS,
    GCSAM,
    GNP,
    LBFGS,
    SAM,
    SGD,
    SWA,
    Adam,
    AdamW,
    NiG,
    NiGBH,
    NiGMBH,
    NiM,
    NiMBH,
    NiMMBH,
    NormalisedGD,
    named,
)
from cnognp.torch_optim.sharpness import SharpnessAware

__all__ = [
    "ASAM", "BFGS", "GCSAM", "GNP", "LBFGS", "SAM", "SGD", "SWA", "Adam", "AdamW",
    "MethodOptimizer", "NiG", "NiGBH", "NiGMBH", "NiM", "NiMBH", "NiMMBH", "NormalisedGD",
    "SharpnessAware", "named",
]  # fmt: skip
