"""A changed support set: which examples stay, of which classes they are, and what is added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kshot.bundle import Limits
from kshot.server.request.images import ADDED_IMAGES, image_count
from kshot.server.request.inputs import SupportSet
from kshot.server.request.options import AdaptOptions, Bounds, OptionValue, default_options
from kshot.server.request.validation import check_class_name, check_labels
from kshot.server.request.violations import Violations

_MAX_NOTED = 8
_NOTHING = SupportSet(None, (), ())


@dataclass(frozen=True)
class Revision:
    """The changes to the support set of an adapted model, and the options that hold in their place.

    `relabellings` pairs an example's index with the name of its class. `added` has no images where
    none are added.
    """

    adapted_model: str
    removed: tuple[int, ...]
    relabellings: tuple[tuple[int, str], ...]
    added: SupportSet
    options: Mapping[str, OptionValue]
    etag: str = ""

    @property
    def adds(self) -> bool:
        """Tell whether anything is said of examples to add."""
        return self.added != _NOTHING


@dataclass(frozen=True)
class RevisedLabels:
    """The labels of a changed support set: first of the examples in `rows`, then of those added."""

    rows: tuple[int, ...]
    class_indices: tuple[int, ...]
    class_names: tuple[str, ...]


def revise_labels(
    classes: Sequence[int],
    class_names: Sequence[str],
    revision: Revision,
    limits: Limits,
    violations: Violations,
) -> RevisedLabels:
    """Change the labels of examples; note all that does not fit.

    Examples keep their order, and those added come behind. Classes keep theirs, except those
    without examples, which go; new ones come behind in the order of their first example.
    """
    removed = _removed(len(classes), revision.removed, violations)
    relabelled = _relabelled(len(classes), removed, revision.relabellings, violations)
    rows = tuple(row for row in range(len(classes)) if row not in removed)
    names = [relabelled.get(row, class_names[classes[row]]) for row in rows]
    if revision.adds:
        names += _added_names(revision.added, limits.max_way, violations)
    used = set(names)
    kept = [name for name in class_names if name in used]
    revised = tuple(dict.fromkeys([*kept, *names]))
    places = {name: index for index, name in enumerate(revised)}
    labels = RevisedLabels(rows, tuple(places[name] for name in names), revised)
    if not violations:
        _check_numbers(labels, limits, violations)
    return labels


def _check_numbers(labels: RevisedLabels, limits: Limits, violations: Violations) -> None:
    """Note too few or too many classes or examples."""
    way, count = len(labels.class_names), len(labels.class_indices)
    if way < 2:
        problem = f"expected 2 or more classes to be left with examples, got {way}"
        violations.add("removed_indices", problem)
    if way > limits.max_way:
        expected = f"expected at most {limits.max_way} classes in all, got {way}"
        violations.add("added.class_names", expected)
    if count > limits.max_support_count:
        expected = f"expected at most {limits.max_support_count} examples in all, got {count}"
        violations.add(ADDED_IMAGES, expected)


def revised_options(
    options: AdaptOptions, before: Bounds, changes: Mapping[str, OptionValue]
) -> dict[str, OptionValue]:
    """Return the options to ask for again: those of an adapted model, and the changes.

    One that had the default of its number of classes and examples counts as left out, so that it
    follows the new numbers. A time to live is at most what is allowed now.
    """
    defaults = default_options(before)
    asked = {name: value for name, value in vars(options).items() if value != defaults[name]}
    if "ttl" in asked:
        asked["ttl"] = min(options.ttl, before.ttl.greatest)
    return {**asked, **changes}


def check_change_count(revision: Revision, limits: Limits, violations: Violations) -> bool:
    """Note more changes than a support set has examples at most; return whether there are few."""
    before = len(violations)
    changes = {"removed_indices": revision.removed, "relabellings": revision.relabellings}
    for field, given in changes.items():
        if len(given) > limits.max_support_count:
            expected = f"expected at most {limits.max_support_count}"
            violations.add(field, f"{expected}, got {len(given)}; name each example once")
    return len(violations) == before


def _removed(count: int, indices: Sequence[int], violations: Violations) -> frozenset[int]:
    fitting, problems = _fitting(count, indices, "removed_indices[{}]")
    _note(problems, "removed_indices", violations)
    return frozenset(indices[place] for place in fitting)


def _relabelled(
    count: int,
    removed: frozenset[int],
    relabellings: Sequence[tuple[int, str]],
    violations: Violations,
) -> dict[int, str]:
    indices = [index for index, _ in relabellings]
    fitting, problems = _fitting(count, indices, "relabellings[{}].index")
    names = Violations()
    found: dict[int, str] = {}
    for place in fitting:
        index, name = relabellings[place]
        if index in removed:
            problem = f"expected an example that stays, got {index}, which is removed"
            problems.append((f"relabellings[{place}].index", problem))
        if len(names) <= _MAX_NOTED:
            check_class_name(f"relabellings[{place}].class_name", name, names)
        found[index] = name
    _note(problems, "relabellings", violations)
    violations.extend(names)
    return found


def _fitting(
    count: int, indices: Sequence[int], field: str
) -> tuple[list[int], list[tuple[str, str]]]:
    """Return the places of indices that name an example for the first time; and the problems."""
    fitting: list[int] = []
    problems: list[tuple[str, str]] = []
    seen: set[int] = set()
    for place, index in enumerate(indices):
        if not 0 <= index < count:
            problems.append((field.format(place), f"expected 0 to {count - 1}, got {index}"))
        elif index in seen:
            problem = f"expected each example once, got {index} again"
            problems.append((field.format(place), problem))
        else:
            fitting.append(place)
        seen.add(index)
    return fitting, problems


def _note(problems: Sequence[tuple[str, str]], field: str, violations: Violations) -> None:
    """Note the first problems of a field, and how many there are where that is not all."""
    for place, problem in problems[:_MAX_NOTED]:
        violations.add(place, problem)
    if len(problems) > _MAX_NOTED:
        expected = "expected each to name another example that stays"
        violations.add(field, f"{expected}, got {len(problems)} that do not")


def _added_names(added: SupportSet, max_way: int, violations: Violations) -> list[str]:
    """Return the class of each added example, nothing if they do not fit."""
    noted = Violations()
    check_labels(added, image_count(added.images), (1, max_way), noted, "added")
    violations.extend(noted)
    return [] if noted else [added.class_names[index] for index in added.class_indices]
