"""The methods by name: a table of what each is made of.

The command line reads names, keywords and descriptions from here. They come from the sources of the
classes, and torch is imported only when a method is made.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal

from cnognp.keywords import Keyword, Made, function, keywords_of
from cnognp.methods.composition import (
    GROUPS,
    Average,
    Base,
    Centralisation,
    Clip,
    Data,
    Schedule,
    class_of,
    unevaluated,
)

if TYPE_CHECKING:
    from cnognp.method import Method

BATCH = Data.batch_size
"""Samples in a mini-batch where nobody has said how many."""

_TRAINED = (Clip, Centralisation, Data, Schedule, Average)
_BASED = (Base, Clip, Data, Schedule, Average)
_PULLS = "inertia cognitive social randomness"
_keywords_of = partial(keywords_of, "methods")


@dataclass(frozen=True)
class Named:
    """What a name stands for.

    Args:
        place: ``module:Class`` of the step.
        groups: what is composed with it.
        keys: keywords of the class that the name has; all if empty.
        defaults: where they differ from those of the class.
        fixed: keywords of the class that make the name; they cannot be given.
        parts: fields of the class that are made of keywords of their own, as ``module:Class``.
        outermost: the class goes around everything else, and not around its base alone.
        says: first line of the documentation, where several names share a class.
    """

    place: str
    groups: tuple[Any, ...] = ()
    keys: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)
    outermost: bool = False
    says: str = ""

    def keywords(self) -> dict[str, Keyword]:
        """Every keyword of the name; the base's lr first."""
        found = {}
        if Base in self.groups:
            found["lr"] = _of_group(Base)["lr"]
        listed: dict[str, Keyword] = {}
        for place in (self.place, *self.parts.values()):
            listed |= _keywords_of(place)[1]
        found |= {key: listed[key] for key in self.keys.split() or listed}
        for group in self.groups:
            found |= {key: keyword for key, keyword in _of_group(group).items() if key != "lr"}
        changed = {key: found[key]._replace(default=self.defaults[key]) for key in self.defaults}
        return found | changed

    def make(self, given: Mapping[str, Any]) -> "Method":
        """The method that the keywords, all of them, describe.

        Raises:
            ValueError: if one is out of range, or null where that is no choice.
        """
        for key, keyword in self.keywords().items():
            if given[key] is None and isinstance(keyword.kind, type):
                raise ValueError(f"{key} must be {keyword.kind.__name__}, got null")
        made = {
            group: group(**{key: given[key] for key in _of_group(group)}) for group in self.groups
        }
        own = {key: given[key] for key in given if key not in self._shared()}
        for name, place in self.parts.items():
            mine = _keywords_of(place)[1]
            own[name] = class_of(place)(**{key: own.pop(key) for key in mine})
        kind = class_of(self.place)
        kind = partial(getattr(kind, "named", kind), **self.fixed)

        def around(group: Any, method: Any) -> Any:
            return made[group].around(method) if group in made else method

        method: Any = around(Clip, made[Base].step(bases()) if Base in made else kind(**own))
        if Base in made and not self.outermost:
            method = kind(method, **own)
        method = around(Centralisation, method)
        if Average in made:
            method = made[Average].of_steps(method)
        for group in (Data, Schedule, Average):
            method = around(group, method)
        return kind(unevaluated(method), **own) if self.outermost else method

    def _shared(self) -> dict[str, Any]:
        """The group of every keyword that the step itself does not have."""
        return {key: group for group in self.groups for key in _of_group(group)}

    def grouped(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Keywords as a configuration shows them: the step's own, then a mapping for each group.

        The keyword that a group is called after is its ``name``, and stands alone where it is the
        only one; others go without the group's name before them.
        """
        shared = self._shared()
        tree: dict[str, Any] = {key: given[key] for key in given if key not in shared}
        for group in (each for each in GROUPS if each in self.groups):
            keys = _of_group(group)
            mine = {key: given[key] for key in keys if key in given}
            if len(keys) == 1:
                tree |= mine
            elif mine:
                noun = _noun(group)
                named = sorted(mine, key=noun.__ne__)
                tree[noun] = {_inside(key, noun): mine[key] for key in named}
        return tree

    def flattened(self, tree: Mapping[str, Any]) -> dict[str, Any]:
        """The keywords in a configuration, those of groups without them.

        Raises:
            ValueError: if a group has a key that it does not know, or a keyword is there twice.
        """
        flat: dict[str, Any] = {}
        groups = {_noun(group): group for group in self.groups}
        for key, value in tree.items():
            found = {key: value}
            if key in groups and isinstance(value, Mapping):
                inside = {_inside(known, key): known for known in _of_group(groups[key])}
                if unknown := [name for name in value if name not in inside]:
                    raise ValueError(
                        f"unknown key {unknown[0]!r} in {key}; there are {', '.join(inside)}"
                    )
                found = {inside[name]: value[name] for name in value}
            if twice := [known for known in found if known in flat]:
                raise ValueError(f"{twice[0]} is there twice, in its group and beside it")
            flat |= found
        return flat


def _noun(group: Any) -> str:
    """What a configuration calls a group."""
    return group.__name__.lower()


def _inside(key: str, noun: str) -> str:
    """A keyword inside its group."""
    return "name" if key == noun else key.removeprefix(f"{noun}_")


def _of_group(group: Any) -> Mapping[str, Keyword]:
    keywords = _keywords_of(f"composition:{group.__name__}")[1]
    if group is not Base:
        return keywords
    known: Any = Literal[tuple(bases())]  # type: ignore[valid-type]
    return {**keywords, "base": keywords["base"]._replace(kind=known)}


@cache
def bases() -> Mapping[str, str]:
    """Where the classes are of the methods that can do the step of another one, by name.

    Any can that may see mini-batches, has none inside, and takes ``lr`` and ``weight_decay``.
    """
    steps = {name: entry for name, entry in TABLE.items() if Data in entry.groups}
    return {
        name: entry.place
        for name, entry in steps.items()
        if Base not in entry.groups and {"lr", "weight_decay"} <= set(entry.keywords())
    }


TABLE: Mapping[str, Named] = {
    "gd": Named("descent:GradientDescent", (Schedule,)),
    "sgd": Named("descent:SGD", _TRAINED),
    "normalised-gd": Named("noise:NormalisedGD", (Schedule,)),
    "adam": Named("adaptive:Adam", _TRAINED, keys="lr beta1 beta2 eps weight_decay"),
    "adamw": Named("adaptive:AdamW", _TRAINED, keys="lr beta1 beta2 eps weight_decay"),
    "lion": Named("lion:Lion", _TRAINED),
    "nig": Named("noise:NiG", (Schedule,)),
    "nim": Named("noise:NiM", (Schedule,)),
    **{
        f"{noise}-{hops}": Named(
            "basin_hopping:BasinHopping",
            keys="lr rho eps tau" + (" temperature" if hops == "mbh" else "") + " per_tensor",
            fixed={"perturbation": part, "acceptance": "always" if hops == "bh" else "monotone"},
            says=line.format(part),
        )
        for hops, line in (
            ("bh", "Basin hopping by noise in the {}; one iteration is one hop, always accepted."),
            ("mbh", "Monotone basin hopping by noise in the {}; a hop must lower the loss."),
        )
        for noise, part in (("nig", "gradient"), ("nim", "model"))
    },
    "sam": Named("sharpness_aware:SAM", _BASED, keys="rho"),
    "asam": Named(
        "sharpness_aware:SAM",
        _BASED,
        keys="rho eta",
        defaults={"rho": 0.5, "eta": 0.01},
        fixed={"adaptive": True},
        says="Adaptive SAM: the neighbourhood scales with the magnitude of each weight.",
    ),
    "gcsam": Named("sharpness_aware:GCSAM", _BASED),
    "gnp": Named("sharpness_aware:GNP", _BASED),
    "swa": Named(
        "averaging:SWA",
        (Base, Clip, Data, Schedule),
        keys="start every",
        defaults={"start": 75},
        outermost=True,
    ),
    "bfgs": Named("bfgs:BFGS"),
    "lbfgs-gss": Named("quasi_newton:LBFGSGoldenSection"),
    "pso": Named(
        "swarm:Swarm",
        keys=f"{_PULLS} box",
        # The constriction of Clerc & Kennedy (2002).
        defaults={
            "inertia": 0.7298,
            "cognitive": 1.49618,
            "social": 1.49618,
            "randomness": "coordinate",
        },
        fixed={"lr": 0.0, "velocity": True},
        says="Particle swarm optimisation with velocity memory; uses no gradient.",
    ),
    "pso-bfgs": Named(
        "swarm:Swarm",
        keys=f"lr search_iterations {_PULLS} box",
        fixed={"quasi_newton": True},
        says=(
            "The swarm with a few limited-memory BFGS iterations as the local search of every "
            "member."
        ),
    ),
    "egd": Named(
        "swarm:Swarm",
        keys="lr",
        fixed={"cognitive": 0.0, "social": 0.0},
        says="The swarm without attraction: every member follows its own Euler gradient flow.",
    ),
    "cno": Named(
        "swarm:Swarm",
        keys=f"lr {_PULLS} batch_size momentum weight_decay box mutation horizon stale_fitness",
        defaults={"cognitive": 0.1, "social": 0.1},
        says=(
            "Collaborative neurodynamic optimisation: gradient steps, drawn to the best points so "
            "far."
        ),
    ),
    "cnognp": Named(
        "swarm:Swarm",
        keys=f"lr penalty power {_PULLS} "
        "batch_size momentum weight_decay box mutation horizon stale_fitness",
        defaults={"cognitive": 0.1, "social": 0.1},
        parts={"fitness": "fitness:GradientNormPenalty"},
        says="CNO whose fitness adds a gradient norm penalty to the loss.",
    ),
}


def _function(name: str) -> Callable[..., "Method"]:
    """The function that makes the methods of a name, with signature, types and documentation."""
    entry = TABLE[name]
    keywords = entry.keywords()
    path = f"cnognp.methods.{entry.place.replace(':', '.')}"
    lines = [f"    {key}: {each.help}" for key, each in keywords.items()]
    first = entry.says or _keywords_of(entry.place)[0].partition("\n")[0]
    text = "\n".join([first, "", f"Formula and source: `{path}`.", "", "Args:", *lines])
    return function(name.replace("-", "_"), text, keywords, entry.make)


METHODS: Mapping[str, Callable[..., "Method"]] = Made(TABLE, _function)
"""Functions with plain keywords that return a `Method`, by name."""


def grouped(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of a method as a configuration shows them; of an unknown one as they are."""
    return TABLE[name].grouped(given) if name in TABLE else dict(given)


def flattened(name: str, tree: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of a method in a configuration, of this version or an older one.

    Raises:
        ValueError: if a group has a key that it does not know, or a keyword is there twice.
    """
    return TABLE[name].flattened(tree) if name in TABLE else dict(tree)


def completed(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of a method, those that are not given at their defaults."""
    if name not in TABLE:
        return dict(given)
    defaults = {key: each.default for key, each in TABLE[name].keywords().items()}
    return {**defaults, **given}
