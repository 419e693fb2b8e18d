"""The methods by name: a table of what each is made of.

The command line reads names, keywords and descriptions from here. They come from the sources of the
classes, and torch is imported only when a method is made.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
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
    DecayOf,
    Schedule,
    Search,
    class_of,
    unevaluated,
)

if TYPE_CHECKING:
    from cnognp.method import Method

BATCH = Data.batch_size
"""Samples in a mini-batch where nobody has said how many."""

_TRAINED = (DecayOf, Clip, Centralisation, Data, Schedule, Average)
_BASED = (Base, DecayOf, Clip, Data, Schedule, Average)
_SEARCHING = (Search, DecayOf, Clip, Data, Schedule)
_PULLS = "inertia cognitive social randomness"
_keywords_of = partial(keywords_of, "methods")
_WHOLE = {"batch_size": 0}
_SOFT = {"cognitive": 0.1, "social": 0.1, "batch_size": None}


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
        if {Base, Search} & set(self.groups):
            found["lr"] = _of_group(Base)["lr"]
        listed: dict[str, Keyword] = {}
        for place in (self.place, *self.parts.values()):
            listed |= _keywords_of(place)[1]
        found |= {key: listed[key] for key in self.keys.split() or listed}
        for group in self.groups:
            found |= {key: keyword for key, keyword in _of_group(group).items() if key != "lr"}
        return found | {key: found[key].instead(self.defaults[key]) for key in self.defaults}

    def make(self, given: Mapping[str, Any]) -> "Method":
        """The method that the keywords, all of them, describe.

        Raises:
            ValueError: if one is out of range, or null where that is no choice.
        """
        for key, keyword in self.keywords().items():
            if given[key] is None and isinstance(keyword.kind, type):
                raise ValueError(f"{key} must be {keyword.kind.__name__}, got null")
        if Search in self.groups:
            # Training has settled it before; an objective without samples takes its steps whole.
            given = {**given, "batch_size": given["batch_size"] or 0}
        made = {
            group: group(**{key: given[key] for key in _of_group(group)}) for group in self.groups
        }
        named, shared = self.keys.split(), self._shared()
        own = {key: given[key] for key in given if key not in shared or key in named}
        for name, place in self.parts.items():
            mine = _keywords_of(place)[1]
            own[name] = class_of(place)(**{key: own.pop(key) for key in mine})
        kind = class_of(self.place)
        kind = partial(getattr(kind, "named", kind), **self.fixed)

        def around(group: Any, method: Any) -> Any:
            return made[group].around(method) if group in made else method

        method: Any
        if Search in made:
            method = _searching(made[Search], made[DecayOf], made[Clip])
        else:
            method = made[Base].step(bases()) if Base in made else kind(**own)
            method = around(Clip, around(DecayOf, method))
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


def _searching(search: Search, decay: DecayOf, clip: Clip) -> "Method":
    """What a member of a swarm does between two pulls, on each mini-batch.

    Raises:
        ValueError: if there is no such base, or it does not have what is given.
    """
    if search.base not in (known := searches()):
        raise ValueError(f"base must be one of {known}, got {search.base}")
    entry = TABLE[search.base]
    defaults = {key: each.default for key, each in entry.keywords().items()}
    given = defaults | search.keys(defaults) | asdict(decay) | asdict(clip) | {"batch_size": 0}
    if search.plain:
        # No velocity is carried and kept for nothing.
        return clip.around(class_of("descent:GradientDescent")(search.lr))
    return unevaluated(entry.make(given))


def _noun(group: Any) -> str:
    """What a configuration calls a group."""
    return getattr(group, "noun", group.__name__.lower())


def _inside(key: str, noun: str) -> str:
    """A keyword inside its group."""
    return "name" if key == noun else key.removeprefix(f"{noun}_")


def _of_group(group: Any) -> Mapping[str, Keyword]:
    keywords = _keywords_of(f"composition:{group.__name__}")[1]
    choices = {"base": bases} if group is Base else {"base": searches, "base_step": bases}
    if group not in (Base, Search):
        return keywords
    known = {key: Literal[tuple(names())] for key, names in choices.items()}  # type: ignore[misc]
    return {**keywords, **{key: keywords[key]._replace(kind=known[key]) for key in known}}


@cache
def bases() -> Mapping[str, str]:
    """Where the classes are of the methods that can do the step of another one, by name.

    Any can that may see mini-batches, has none inside, and takes ``lr`` and ``weight_decay``.
    """
    steps = {name: entry for name, entry in TABLE.items() if Data in entry.groups}
    return {
        name: entry.place
        for name, entry in steps.items()
        if not {Base, Search} & set(entry.groups)
        and {"lr", "weight_decay"} <= set(entry.keywords())
    }


@cache
def searches() -> tuple[str, ...]:
    """The methods that can be the local search of a swarm: bases, and what has one of them."""
    based = [name for name, each in TABLE.items() if {Base, Data} <= set(each.groups)]
    return (*bases(), *(name for name in based if not TABLE[name].outermost))


TABLE: Mapping[str, Named] = {
    "gd": Named("descent:GradientDescent", (Schedule,)),
    "sgd": Named("descent:SGD", _TRAINED),
    "normalised-gd": Named("noise:NormalisedGD", (Schedule,)),
    "adam": Named("adaptive:Adam", _TRAINED, keys="lr beta1 beta2 eps weight_decay"),
    "adamw": Named("adaptive:AdamW", _TRAINED, keys="lr beta1 beta2 eps weight_decay"),
    "lion": Named("lion:Lion", _TRAINED),
    "nig": Named("noise:NiG", (Data, Schedule), defaults=_WHOLE),
    "nim": Named("noise:NiM", (Data, Schedule), defaults=_WHOLE),
    **{
        f"{noise}-{hops}": Named(
            "basin_hopping:BasinHopping",
            (Data,) if hops == "bh" else (),
            keys="lr rho eps tau" + (" temperature" if hops == "mbh" else "") + " per_tensor",
            defaults=_WHOLE if hops == "bh" else {},
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
        _SEARCHING,
        keys=f"{_PULLS} box mutation horizon fitness_from stale_fitness",
        defaults=_SOFT,
        outermost=True,
        says=(
            "Collaborative neurodynamic optimisation: gradient steps, drawn to the best points so "
            "far."
        ),
    ),
    "cnognp": Named(
        "swarm:Swarm",
        _SEARCHING,
        keys=f"penalty power {_PULLS} box mutation horizon fitness_from stale_fitness published",
        defaults=_SOFT,
        outermost=True,
        parts={"fitness": "fitness:GradientNormPenalty"},
        says="CNO whose fitness adds a gradient norm penalty to the loss.",
    ),
}


PUBLISHED: Mapping[str, Any] = {
    "lr": 1e-3, "weight_decay": 5e-4, "batch_size": 128, "penalty": 0.1, "power": "norm",
    "cognitive": 1e-5, "social": 1e-5, "randomness": "tensor", "fitness_from": "epoch",
}  # fmt: skip
"""Settings of the published script for CIFAR, where they are not the defaults."""


def as_published(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of a method; those at their defaults as published, where that is asked for."""
    if not given.get("published"):
        return dict(given)
    known = TABLE[name].keywords() if name in TABLE else {}
    at_default = [
        key for key in PUBLISHED if key in known and given.get(key) in (None, known[key].default)
    ]
    return {**given, **{key: PUBLISHED[key] for key in at_default}}


def _function(name: str) -> Callable[..., "Method"]:
    """The function that makes the methods of a name, with signature, types and documentation."""
    entry = TABLE[name]
    keywords = entry.keywords()
    path = f"cnognp.methods.{entry.place.replace(':', '.')}"
    lines = [f"    {key}: {each.help}" for key, each in keywords.items()]
    first = entry.says or _keywords_of(entry.place)[0].partition("\n")[0]
    text = "\n".join([first, "", f"Formula and source: `{path}`.", "", "Args:", *lines])

    def make(given: Mapping[str, Any]) -> "Method":
        usual = {key: PUBLISHED[key] for key in PUBLISHED if key in keywords}
        return entry.make(completed(name, {**(usual if given.get("published") else {}), **given}))

    return function(name.replace("-", "_"), text, keywords, make)


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
