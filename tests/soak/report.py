"""The table of a run, and whether what must be zero is."""

from collections import Counter
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.soak.checks import Findings
from tests.soak.nemesis import Nemesis
from tests.soak.plan import PROMISE, Plan
from tests.soak.system import environment


def report(
    plan: Plan, nemesis: Nemesis, found: Findings, slopes: dict[str, Any], held: dict[str, int], told: list[str]
) -> dict[str, Any]:
    """All figures of a run. `zero` holds those that must be zero, `told` what to show of those that are not."""
    seen, nothing = Counter[str](), Counter[str]()
    healed: dict[str, list[float]] = {"store": [], "redis": [], "other": []}
    for window in nemesis.windows:
        for name, count in window.seen.items():
            (seen if count else nothing)[name] += 1
        kind = next(
            (kind for kind in ("store", "redis") if any(name.startswith(kind) for name in window.names)), "other"
        )
        if window.healed is not None:
            healed[kind].append(window.healed)
    ended = sum(seen[name] for name in seen if name.endswith(("killed", "ended", "stopped")))
    accounts, audit = nemesis.accounts, nemesis.audit
    return {
        "minutes": plan.minutes,
        "nodes": plan.nodes,
        "seed": plan.seed,
        "transports": list(plan.transports),
        "environment": environment(),
        "operations": found.operations,
        "verified_reads": found.verified_reads,
        "verified_blocks": found.verified_blocks,
        "blocks_from_other_nodes": found.from_other_nodes,
        "faults_seen": sum(seen.values()),
        "fault_classes": len(seen),
        "faults_without_effect": sum(nothing.values()),
        "faults": dict(sorted(seen.items())),
        "kills_and_stops": ended,
        "corruptions_made_and_read": accounts.made,
        "corruptions_counted": accounts.counted,
        "corruption_episodes_skipped": accounts.skipped,
        "durable_blocks_audited": audit.read,
        "worst_end_behind_deadline_ms": round(found.most_late * 1000),
        "late_while_the_machine_held_the_client_up": found.late_with_machine,
        "hits_of_nodes_that_were_not_told_of_a_delete": len(found.returned),
        "success_in_peace": round(1 - found.failed_in_quiet / max(1, found.quiet), 5),
        "calls_in_peace": found.quiet,
        "healed_seconds": {
            kind: {"n": len(times), "median": round(median(times), 2), "max": round(max(times), 2)}
            for kind, times in healed.items()
            if times
        },
        "slopes_percent_an_hour": {name: [round(slope, 1) for slope in row] for name, row in slopes.items()},
        "zero": {
            "wrong_bytes": len(found.wrong) + accounts.wrong + audit.wrong,
            "lost_durable": len(audit.lost),
            "corruptions_made_minus_counted": accounts.made - accounts.counted,
            "hits_that_could_not_be": len(found.invisible),
            "cross_namespace_hits": found.foreign,
            f"calls_past_deadline_plus_{round(PROMISE * 1000)}_ms": len(found.late),
            "unexpected_status": len(found.unexpected),
            "windows_not_healed": sum(window.healed is None for window in nemesis.windows),
            **{f"held_at_the_end_{name}": count for name, count in held.items()},
        },
        "examples": [
            str(note) for some in (found.wrong, found.late, found.unexpected, found.invisible) for note in some[:3]
        ]
        + [f"lost durable: {name}" for name in audit.lost[:3]]
        + [f"not healed: {window}" for window in nemesis.windows if window.healed is None][:3]
        + told,
    }


def show(figures: dict[str, Any]) -> None:
    """The table people read."""
    table = Table(
        title=f"soak, {figures['nodes']} nodes, {figures['minutes']} minutes, seed {figures['seed']}", show_header=False
    )
    for name, value in figures.items():
        if name in ("zero", "faults", "examples", "minutes", "nodes", "seed"):
            continue
        if isinstance(value, dict):
            for inner, what in value.items():
                table.add_row(f"{name.replace('_', ' ')}: {inner}", str(what))
        else:
            table.add_row(name.replace("_", " "), str(value))
    table.add_section()
    for name, count in figures["faults"].items():
        table.add_row(f"fault: {name}", str(count))
    table.add_section()
    for name, count in figures["zero"].items():
        table.add_row(name.replace("_", " "), f"[{'green' if count == 0 else 'red'}]{count}")
    console = Console()
    console.print(table)
    for line in figures["examples"]:
        console.print(line, style="red", markup=False)
