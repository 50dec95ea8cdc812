"""The page of one run: where its numbers come from, all of them, and what happened to its samples."""

from collections.abc import Mapping, Sequence

from medbench.harness.results import MetricResult, Results
from medbench.leaderboard.counts import NOT_OK, WRITTEN_HEADS, not_ok, writes_to_tell, written_cells
from medbench.leaderboard.site.collect import SiteRun
from medbench.leaderboard.site.index_page import PROTOCOL_TEXTS, SUITE_TEXTS
from medbench.leaderboard.site.markup import Markup, element, join
from medbench.leaderboard.site.page import render_page
from medbench.leaderboard.site.tables import interval, metric_title, whisker
from medbench.tasks.catalog import TASKS
from medbench.tasks.protocols import PROTOCOLS, STATES, Protocol, metric_ids

_TEXTS = frozenset({"Task", "Metric", "From 0 to 100", "Definition"})


def render_run(run: SiteRun, name: str) -> str:
    """Return the page of a run.

    Args:
        run: The run.
        name: Its name on its board.
    """
    results = run.results
    return render_page(
        name,
        element("nav", element("a", "All runs", href="../index.html")),
        element("h1", name),
        *(element("p", notice, class_="notice") for notice in results.notices),
        _links(run),
        _facts(results),
        *(_numbers(results, protocol) for protocol in PROTOCOLS),
        _states(results),
        _written(results),
        _terms(run),
    )


def _links(run: SiteRun) -> Markup:
    identity = run.results.run
    links = [element("a", "Its results as JSON", href=f"../data/{identity}.json")]
    if run.report:
        links.insert(0, element("a", "Its report, with samples", href=f"./{identity}/report.html"))
    why = element("p", f"Its report is not here: {run.no_report}.") if run.no_report else join()
    return join(element("p", *(join(link, " ") for link in links), class_="data"), why)


def _facts(results: Results) -> Markup:
    model = results.model
    facts = {
        "Run": results.run,
        "Model": model.name,
        "Weights": model.weights,
        "Trained on the train split of": ", ".join(model.trained_on) or "none of these tasks, as far as is known",
        "Device, type": f"{model.device}, {model.dtype}",
        "Suite": SUITE_TEXTS[results.suite],
        "Samples per task": "all" if results.limit is None else f"the first {results.limit}",
        "Seed": str(results.seed),
        "Not supported": ", ".join(results.unsupported) or "nothing",
    }
    rows = [join(element("dt", label), element("dd", text)) for label, text in facts.items()]
    return element("dl", *rows)


def _numbers(results: Results, protocol: Protocol) -> Markup:
    rows = [
        _row(results.tasks[task].title, metric_id, metric)
        for task in _in_order(results)
        for metric_id, metric in _ordered(results, task, protocol)
    ]
    heads = [
        "Task",
        "Metric",
        "Value %",
        "95 % interval",
        "From 0 to 100",
        "n",
        "Answered",
        "Among answered",
        "If failures are wrong, right",
        *(why.capitalize() for why in NOT_OK),
        "Definition",
    ]
    table = element("table", _head(heads), element("tbody", *rows), class_="plain")
    return element(
        "section",
        element("h2", f"Protocol {protocol}"),
        element("p", PROTOCOL_TEXTS[protocol]),
        _scroll(table, f"Numbers under protocol {protocol}"),
    )


def _in_order(results: Results) -> list[str]:
    known = [task for task in TASKS if task in results.tasks]
    return known + sorted(set(results.tasks).difference(known))


def _ordered(results: Results, task: str, protocol: Protocol) -> list[tuple[str, MetricResult]]:
    metrics: Mapping[str, MetricResult] = results.tasks[task].metrics(protocol)
    known = [name for name in metric_ids(task, results.tasks[task].kind, protocol) if name in metrics]
    return [(name, metrics[name]) for name in [*known, *sorted(set(metrics).difference(known))]]


def _row(title: str, metric_id: str, metric: MetricResult) -> Markup:
    value = "not scored" if metric.value is None else f"{100 * metric.value:.2f}"
    answered = "" if metric.answered is None else f"{100 * metric.answered:.1f} %"
    among = "" if metric.among_answered is None else f"{100 * metric.among_answered:.2f}"
    bounds = "" if metric.bounds is None else ", ".join(f"{100 * bound:.2f}" for bound in metric.bounds)
    told = (metric.n, answered, among, bounds, *not_ok(metric).values())
    return element(
        "tr",
        element("th", title, scope="row"),
        element("td", metric_title(metric_id), class_="text"),
        element("td", value),
        element("td", interval(metric)),
        element("td", whisker(metric), class_="plot"),
        *(element("td", str(one)) for one in told),
        element("td", element("code", metric.signature), class_="text"),
    )


def _states(results: Results) -> Markup:
    rows = [
        element(
            "tr",
            element("th", results.tasks[task].title, scope="row"),
            element("td", str(results.tasks[task].samples)),
            *(element("td", str(results.tasks[task].states.get(state, 0))) for state in STATES),
        )
        for task in _in_order(results)
    ]
    table = element(
        "table",
        _head(["Task", "Samples", *STATES]),
        element("tbody", *rows),
        class_="plain",
    )
    return element("section", element("h2", "Samples"), _scroll(table, "What happened to the samples"))


def _written(results: Results) -> Markup:
    rows = [
        element("tr", element("th", task.title, scope="row"), *(element("td", cell) for cell in written_cells(task)))
        for task in writes_to_tell(results)
    ]
    if not rows:
        return join()
    title = "Thoughts, and answers at the limit of tokens"
    table = element("table", _head(["Task", *WRITTEN_HEADS]), element("tbody", *rows), class_="plain")
    return element("section", element("h2", title), _scroll(table, title))


def _terms(run: SiteRun) -> Markup:
    held_back = [f"{task}: {terms.reason}" for task, terms in run.public.terms.items() if terms.reason]
    if not held_back:
        return join()
    items = [element("li", text) for text in held_back]
    return element("section", element("h2", "Data that may not be passed on"), element("ul", *items))


def _head(titles: Sequence[str]) -> Markup:
    cells = [element("th", title, scope="col", class_="text" if title in _TEXTS else "number") for title in titles]
    return element("thead", element("tr", *cells))


def _scroll(table: Markup, label: str) -> Markup:
    return element("div", table, class_="scroll", tabindex=0, role="region", aria_label=label)
