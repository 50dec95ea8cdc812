"""What a run says at its end: its numbers, how long it took, where its pages are, and the exit code."""

from collections.abc import Iterable

from medbench.harness.cache.memory import cached
from medbench.harness.finish import PAGE, REPORT, RunOutcome
from medbench.harness.phases import Phases
from medbench.harness.results import MetricResult, Results, felt_limits, percent
from medbench.harness.run import ShardOutcome
from medbench.tasks.catalog import task_names
from medbench.tasks.foundation.console import emit_table, say, warn
from medbench.tasks.foundation.errors import EXIT_FAILED
from medbench.tasks.protocols import metric_ids

_NAMED = 3


def show_outcome(outcome: RunOutcome | ShardOutcome, *, profile: bool, table: bool = True) -> None:
    """Show the numbers of a run that has ended, one line of what it took, with `profile` by phase, and its pages."""
    if isinstance(outcome, RunOutcome):
        if table:
            show_results(outcome.results)
        for line in felt_limits(outcome.results.tasks):
            warn(line)
    if outcome.phases is not None:
        if profile:
            show_phases(outcome.phases)
        else:
            say(_totals(outcome.phases))
        if said := cached(outcome.phases):
            say(said)
    for page in (PAGE, REPORT):
        if isinstance(outcome, RunOutcome) and (outcome.path / page).exists():
            say(f"{outcome.path / page}")


def exit_code(outcome: RunOutcome | ShardOutcome) -> int:
    """Return the exit code of a run that has ended: failure if nothing could be scored, or no sample was answered."""
    if isinstance(outcome, RunOutcome):
        return code_of_results(outcome.results)
    if outcome.failed:
        say("No sample of this shard got an answer; the same command tries them again.")
    return EXIT_FAILED if outcome.failed else 0


def code_of_results(results: Results) -> int:
    """Return the exit code of numbers: failure if there are none."""
    return code_of_metrics(
        metric for task in results.tasks.values() for metric in (*task.paper.values(), *task.strict.values())
    )


def code_of_metrics(metrics: Iterable[MetricResult]) -> int:
    """Return the exit code of what was scored: failure if no metric has a number."""
    if any(metric.value is not None for metric in metrics):
        return 0
    say("Nothing could be scored.")
    return EXIT_FAILED


def show_results(results: Results) -> None:
    """Write a run's numbers under the paper protocol, and those that were asked for."""
    rows = []
    for name in (name for name in task_names() if name in results.tasks):
        task = results.tasks[name]
        failed = [f"{count} {state}" for state, count in sorted(task.states.items()) if count and state != "ok"]
        found = [
            (metric_id, metric)
            for metric_id in metric_ids(name, task.kind, "paper")
            if (metric := task.paper.get(metric_id)) is not None
        ]
        found += [(f"{metric_id} (strict)", one) for metric_id, one in task.strict.items() if one.traits is not None]
        rows += [[task.title, shown, percent(one), str(one.n), ", ".join(failed)] for shown, one in found]
    columns = ["task", "metric", "value % [95 % interval]", "n", "not ok"]
    emit_table(columns, rows, title=f"{results.title}, paper protocol")


def _whose(phases: Phases) -> str:
    several = phases.notes.get("workers", {}).get("count", 0)
    return f"of {several} worker{'s' if several > 1 else ''} " if several else ""


def _totals(phases: Phases) -> str:
    """Return what a run took in one line; seconds of workers side by side add up."""
    total, spent = sum(phases.seconds.values()), sorted(phases.seconds.items(), key=lambda item: -item[1])
    parts = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in spent[:_NAMED] if total)
    tokens, answers = sum(rate.output_tokens for rate in phases.tasks.values()), phases.counts.get("answers kept", 0)
    written = f" {answers:,} answers{f', {tokens:,} tokens' if tokens else ''}." if answers else ""
    return f"Took {total:.1f} s {_whose(phases)}({parts}).{written} More in env.json, or with --profile."


def show_phases(phases: Phases) -> None:
    """Write where the time of a run went: by phase, by task, and what an answer on the disk cost."""
    spent = sorted(phases.seconds.items(), key=lambda item: -item[1])
    total = sum(phases.seconds.values())
    rows = [[phase, f"{seconds:.1f}", f"{100 * seconds / total:.0f}"] for phase, seconds in spent if total]
    beside = [[f"{phase} (beside)", f"{seconds:.1f}", ""] for phase, seconds in sorted(phases.background.items())]
    emit_table(["phase", "seconds", "%"], [*rows, *beside], title=f"Where the time {_whose(phases)}went")
    if phases.tasks:
        rates = [
            [task, f"{rate.output_tokens:,}", f"{rate.seconds:.1f}", f"{rate.tokens_per_second:,.0f}"]
            for task, rate in sorted(phases.tasks.items(), key=lambda item: -item[1].seconds)
        ]
        emit_table(["task", "output tokens", "seconds", "tokens/s"], rates, title="Where the engine's time went")
    if kept := phases.counts.get("answers kept"):
        written = phases.seconds["write"]
        cost = f"{1e6 * written / kept:,.0f} µs, {100 * written / total:.1f} % of all"
        say(f"To have an answer safe on the disk took {cost}.")
    if efficiency := phases.efficiency():
        say(
            f"Engine: {100 * efficiency['useful_row_share']:.1f} % of rows useful, "
            f"{100 * efficiency['prefill_padding']:.1f} % of prefill padding, "
            f"{100 * efficiency['shared_prompt_share']:.1f} % of prompt tokens shared, "
            f"{phases.counts.get('images encoded', 0):,} images encoded, "
            f"{efficiency['output_tokens_per_second']:,.0f} output tokens/s"
        )
