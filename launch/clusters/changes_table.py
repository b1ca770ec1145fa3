"""What Terraform will do, in the terminal: numbers of what is made, names of what is destroyed."""

from rich.console import Console

from tuneyard.cluster.provision.terraform_plan import Action, Plan

_WORDS: dict[Action, str] = {"create": "makes", "update": "changes", "replace": "replaces", "delete": "destroys"}


def show_changes(plan: Plan, console: Console) -> None:
    """Print the plan: by type what is new, and one line for each resource that is changed or ends."""
    if not plan.changes:
        console.print("Terraform changes nothing: all is as it should be.")
        return
    told = [f"{word} {sum(plan.counts(action).values())}" for action, word in _WORDS.items() if plan.counts(action)]
    console.print(f"Terraform {', '.join(told)}.")
    made = ", ".join(f"{count} {kind}" for kind, count in plan.counts("create").items())
    if made:
        console.print(f"  new: {made}", style="dim", markup=False)
    for change in plan.changes:
        if change.action != "create":
            style = "dim" if change.action == "update" else "yellow"
            console.print(f"  {_WORDS[change.action]} {change.address}", style=style, markup=False)
