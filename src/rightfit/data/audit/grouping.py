"""Which copies a training leaves out, and which images its split keeps on one side."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pandas as pd

from rightfit.data.audit.duplicates import components
from rightfit.data.audit.subject import Ints
from rightfit.data.table import SPLITS, Table, parts_of


def first_of_each(
    table: Table, exact: Ints, known: Collection[str] = ()
) -> tuple[Ints, tuple[tuple[str, ...], ...]]:
    """Rows without all but one of equal files with the same labels, ascending; and the names of each set of such
    files, the one that is kept first.

    Kept is what a given split holds back (test before val before train), then what an earlier run `known`s, then the
    first by name: so the rows' order decides nothing, and a copy that is added later is the one to go.
    """
    splits = table.frame["split"].to_numpy(object)
    held_back = {name: -place for place, name in enumerate(("", *SPLITS))}
    names, labels = table.frame["name"].tolist(), table.frame["label"].astype(str)
    if table.label_mode == "multilabel":
        labels = labels.map(lambda text: "|".join(sorted(set(parts_of(text)))))
    sets: dict[tuple[int, str], list[tuple[int, bool, str, int]]] = {}
    for row, (number, label, name, split) in enumerate(
        zip(exact.tolist(), labels, names, splits, strict=True)
    ):
        sets.setdefault((number, label), []).append((held_back[split], name not in known, name, row))
    ordered = [sorted(found) for found in sets.values()]
    rows = np.array(sorted(found[0][-1] for found in ordered), np.int64)
    return rows, tuple(tuple(name for *_, name, _ in found) for found in ordered if len(found) > 1)


def grouped(table: Table, near: Ints) -> Table:
    """Images that show one picture become one group, with the groups they had; a given split is not crossed, and an
    image without one goes with those that are held back.

    A new group is called as its first image by name, so that it is dealt out as that image would be alone.
    """
    frame = table.frame
    order = {name: place for place, name in enumerate(("", *SPLITS))}
    codes = frame["split"].map(order).to_numpy(np.int64)
    number = np.unique(near, return_inverse=True)[1]
    last = np.zeros(len(number), np.int64)
    np.maximum.at(last, number, codes)
    place = number * len(order) + np.where(codes == 0, last[number], codes)
    numbers, first, number, sizes = np.unique(
        place, return_index=True, return_inverse=True, return_counts=True
    )
    if len(numbers) == len(place):
        return table
    groups = frame["group"].to_numpy(object)
    of_group = pd.factorize(pd.Series(groups))[0]
    _, first_of_group = np.unique(of_group, return_index=True)
    rows = np.arange(len(frame))
    same_group = np.where(groups == "", rows, first_of_group[of_group])
    edges = np.concatenate([np.column_stack([rows, first[number]]), np.column_stack([rows, same_group])])
    joined = components(len(frame), edges)
    touched = np.unique(joined[sizes[number] > 1])
    names = frame["name"].tolist()
    called: dict[int, tuple[bool, str]] = {}
    for row in np.flatnonzero(np.isin(joined, touched)).tolist():
        group = groups[row]
        name = (not group, group or names[row])  # a group that came with the data gives its name
        called[int(joined[row])] = min(called.get(int(joined[row]), name), name)
    renamed = [
        called[j][1] if j in called else group for j, group in zip(joined.tolist(), groups, strict=True)
    ]
    return replace(table, frame=frame.assign(group=pd.Series(renamed, dtype="str")))
