"""A search for settings: trials go on rung by rung, one is chosen by mean and interval, and a run is trained with it.

Everything that is decided follows from the journal (tuning/journal.py), so a search that was killed goes on where it
was; a trial goes on from its checkpoint, or, where that is gone, from its start, to the same numbers.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightfit import beginning, cluster
from rightfit.aside import Interrupted
from rightfit.beginning import Prepared
from rightfit.config import parse_seconds
from rightfit.console import Console
from rightfit.errors import DataError, RunError, UsageError, WriteError
from rightfit.places import Here, Nodes
from rightfit.provenance import digest_of_file
from rightfit.records import SEARCHED
from rightfit.run import Run
from rightfit.study import OTHERS, Study
from rightfit.trials import FOLDER, JOURNAL, Trials, parts_of, refuse_other_weights

if TYPE_CHECKING:
    from rightfit.tuning.space import Space


@dataclass(frozen=True)
class Ends:
    """When a search is over: after so many trials, or so long; None is no end."""

    trials: int | None
    time_limit: str | None

    def check(self) -> None:
        """UsageError for a search without an end, without a trial, or without Optuna."""
        from rightfit.tuning.suggest import need_optuna

        if self.trials is None and self.time_limit is None:
            raise UsageError("a search without an end: give --time-limit, such as 2h, or --trials")
        if self.trials is not None and self.trials < 1:
            raise UsageError(f"{self.trials} trials are no search; give at least 1")
        need_optuna()


def tune(
    prepared: Prepared,
    console: Console,
    held: ExitStack,
    knobs: Space | None,
    ends: Ends,
    ray: str | None = None,
    place: Path | None = None,
    sizes: Sequence[str] = (),
) -> Run:
    """Search, on the cluster at `ray` if there is one, choose, and train a run with what was chosen; `place` is a
    search's that is locked already. Image `sizes` are tuned where there are several and no `knobs`."""
    from rightfit.nets.pretrained import SMALLEST
    from rightfit.saving import folder
    from rightfit.tuning import journal, space

    dataset, asked = prepared.dataset, prepared.asked
    parts_of(dataset, asked.seed)  # or there are too few images
    _, base, facts, _ = beginning.planned(dataset, asked, Console(quiet=True))
    assert base.epochs
    if facts.pretrained and asked.weights == "auto":  # which takes none for smaller images
        sizes = [size for size in sizes if int(size) >= SMALLEST]
    if knobs is None:
        knobs = space.default_space(base, asked, facts.images, facts.pretrained, sizes)
    if not knobs:
        raise UsageError(
            "every setting that is tuned was set; leave some open, or name them in a --space file"
        )
    if dataset.table.images is not None and any(knob.name == "image_size" for knob in knobs):
        raise UsageError(
            "data in memory come at one image size, which cannot be tuned; files can be decoded at any"
        )
    if dataset.table.images is not None and ray is not None:
        raise UsageError("nodes reach images by their path; data in memory are this process's alone")
    if place is None:
        place = folder.new_folder(asked.output, asked.data)
        held.enter_context(folder.locked(place))
        (place / FOLDER).mkdir()
        dataset.table.write_csv(place / "data.csv")
        journal.write(
            place / FOLDER / JOURNAL,
            "begun",
            **prepared.record(),
            space=[dataclasses.asdict(knob) for knob in knobs],
            **dataclasses.asdict(ends),
            images=dataset.images.fingerprint,
            pretrained=facts.pretrained,
        )
    else:
        refuse_other_weights(journal.read(place / FOLDER / JOURNAL).begun, facts)
    seconds = parse_seconds(ends.time_limit) if ends.time_limit else None
    own = Trials(place, prepared, base, facts)
    if ray is not None:
        held.enter_context(cluster.connected(ray, console))
    places = Here(own, console) if ray is None else Nodes(place, prepared.backend, console)
    study = Study(own, knobs, ends.trials, seconds, console, places)
    again = f"rightfit resume {place}" + (f" --ray {ray}" if ray else "")
    try:
        study.run()
    except Interrupted as stopped:
        console.say(f"{stopped}; `{again}` goes on with the search")
        return Run(place, unfinished=True)
    except (DataError, WriteError):
        console.say(f"the search stops; once that is mended, `{again}` goes on")
        raise
    return _ended(study, held)


def go_on(
    place: Path,
    data: Any,
    micro_batch: int | None,
    console: Console,
    held: ExitStack,
    ray: str | None,
    ends: Ends,
) -> Run:
    """A search that was stopped or killed, from its journal. UsageError for data in memory that are not given again,
    DataError for images or labels that have changed."""
    from rightfit.saving import folder
    from rightfit.tuning import journal
    from rightfit.tuning.space import Knob

    path = place / FOLDER / JOURNAL
    if not {"asked", "pretrained"} <= journal.read(path).begun.keys():
        raise RunError(f"{place}: its journal says nothing of how the search was begun; begin another one")
    if ends != Ends(None, None):
        ends.check()
        journal.write(path, "ends", **dataclasses.asdict(ends))
    record = journal.read(path)
    begun = record.begun
    folder.remove_half_written(place / FOLDER)
    console.say(f"{place}: a search goes on, {len(record.trials):,} of its trials begun")
    prepared = beginning.prepared_again(place, begun, data, micro_batch, console)
    dataset = prepared.dataset
    with tempfile.TemporaryDirectory() as beside:
        dataset.table.write_csv(Path(beside) / "data.csv")
        same = digest_of_file(Path(beside) / "data.csv") == digest_of_file(place / "data.csv")
    if not same or dataset.images.fingerprint != begun["images"]:
        raise DataError(f"{place}: images or labels have changed since the search began; begin another one")
    if prepared.backend != begun["backend"]:
        console.say(
            f"goes on on {prepared.backend}; trials so far ran on {begun['backend']}, equal to rounding only"
        )
    knobs = tuple(Knob(**{**knob, "choices": tuple(knob["choices"])}) for knob in begun["space"])
    ends = Ends(begun["trials"], begun["time_limit"])
    return tune(prepared, console, held, knobs, ends, ray, place)


def _ended(study: Study, held: ExitStack) -> Run:
    from rightfit.saving import folder
    from rightfit.tuning.choosing import choose
    from rightfit.tuning.space import edges, place_of
    from rightfit.tuning.suggest import importances

    choice = choose(study.trials, study.levels)
    if choice is None:
        why = study.trials[0].failed
        raise RunError(
            f"{study.own.place}: no trial was trained to its end; the default recipe failed: {why}; {OTHERS}"
        )
    trial = study.trials[choice.trial]
    reported = list(trial.reported.values())
    told = {
        name: sum(each[name] for each in reported) / len(reported)
        for name in ("accuracy", "accuracy_half", "loss", "loss_half")
    }
    study.console.say(
        f"chosen: trial {choice.trial} ({choice.because}); on {len(study.own.reporting):,} images that chose nothing "
        f"it gets {100 * told['accuracy']:.1f} ±{100 * told['accuracy_half']:.1f} % right"
    )
    last = study.levels[-1]
    content = {
        "chosen": choice.trial, "settings": trial.chosen, "default": study.trials[0].chosen, "epochs": last,
        "because": choice.because, "reported": told, "seeds": len(reported), "images": len(study.own.reporting),
        "importances": importances(study.trials, study.space, study.levels),
        "edges": edges(study.space, trial.chosen),
        "steps": study.record.steps,
        "range_test": {name: study.record.range_test.get(name) for name in ("rates", "losses", "suggested")},
        "best": study.record.best(last),
        "space": [dataclasses.asdict(knob) for knob in study.space],
        "trials": [
            {"trial": t.number, "chosen": t.chosen, "epochs": t.epochs(0), "loss": t.loss(0, t.epochs(0)),
             "at": {knob.name: place_of(knob, t.chosen[knob.name]) for knob in study.space}, "failed": t.failed}
            for t in study.trials
        ],
    }  # fmt: skip
    folder.write_json(study.own.place / SEARCHED, content)
    shutil.rmtree(study.own.place / FOLDER / "trials", ignore_errors=True)
    for name in ("decisions.jsonl", "history.csv"):  # of a run with this choice that was killed as it began
        (study.own.place / name).unlink(missing_ok=True)
    own = study.own
    asked = own.settings_of(trial.chosen, 0, last)
    if asked.doctor == "auto":  # no trial was acted on, and what is told is of them
        asked = asked.model_copy(update={"doctor": "advise"})
    prepared = dataclasses.replace(own.prepared, dataset=own.at(asked), asked=asked)
    return beginning.begin(prepared, study.console, held, own.place)
