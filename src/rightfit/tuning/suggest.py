"""What the next trial tries: Optuna's tree-structured Parzen estimator (Bergstra et al. 2011) on what is known.

A study is made anew from the trials for each suggestion, with a seed of its own, so that it depends on them alone:
a search that was killed goes on as if it had not been.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rightfit.errors import UsageError
from rightfit.tuning.journal import Trial
from rightfit.tuning.parts import seed_of
from rightfit.tuning.space import Space

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

STARTUP = 8  # trials at random before the first that learns from others


def suggest(trials: Sequence[Trial], space: Space, levels: Sequence[int], seed: int) -> dict[str, Any]:
    """A value for each setting in `space`."""
    optuna = _optuna()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            seed=seed_of(seed, len(trials)), n_startup_trials=STARTUP, multivariate=True, constant_liar=True
        )
        study = optuna.create_study(sampler=sampler)
        for trial in trials:
            study.add_trial(_as_optuna(trial, space, levels))
        asked = study.ask(distributions(space))
    return {knob.name: asked.params[knob.name] for knob in space}


def distributions(space: Space) -> dict[str, BaseDistribution]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    return {
        knob.name: CategoricalDistribution(knob.choices)
        if knob.choices
        else FloatDistribution(knob.low, knob.high, log=knob.log)
        for knob in space
    }


def importances(trials: Sequence[Trial], space: Space, levels: Sequence[int]) -> dict[str, float]:
    """Shares of the loss's variance by setting (functional ANOVA; Hutter et al. 2014), of trials at the first rung, at
    which all are; {} for fewer than ten."""
    optuna = _optuna()
    study = optuna.create_study()
    for trial in trials:
        if not trial.failed and (loss := trial.loss(0, levels[0])) is not None:
            study.add_trial(
                optuna.trial.create_trial(params=trial.chosen, distributions=distributions(space), value=loss)
            )
    if len(study.trials) < 10:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _as_optuna(trial: Trial, space: Space, levels: Sequence[int]) -> Any:
    """As pruned at the last rung that it reached: the sampler ranks trials by how far they came, then by loss. One that
    has reached none yet counts as a bad one (the constant liar), so that several at once do not all try the same."""
    optuna = _optuna()
    kinds, state = distributions(space), optuna.trial.TrialState
    seen = trial.losses.get(0, {})
    if trial.failed or not seen:
        state = state.FAIL if trial.failed else state.RUNNING
        return optuna.trial.create_trial(state=state, params=trial.chosen, distributions=kinds)
    if levels[-1] in seen:
        return optuna.trial.create_trial(
            params=trial.chosen, distributions=kinds, value=seen[levels[-1]], intermediate_values=seen
        )
    return optuna.trial.create_trial(
        state=state.PRUNED,
        params=trial.chosen,
        distributions=kinds,
        value=seen[max(seen)],
        intermediate_values=seen,
    )


def need_optuna() -> None:
    """UsageError where it is not installed."""
    _optuna()


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise UsageError("searching needs Optuna: pip install 'rightfit[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
