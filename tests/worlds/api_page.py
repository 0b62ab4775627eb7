"""The page of the public names, `docs/api.md`, generated from signatures and docstrings."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

MEMBER_CALLS = (
    "members change_members add_node remove_node transfer_leadership step_down snapshot snapshots save_snapshot"
)
KEY_CALLS = (
    "put get delete delete_prefix cas incr append batch transaction scan entry entries lease lease_info leases watch"
)
SERVICE_CALLS = (
    f"{MEMBER_CALLS} "
    f"start stop submit submit_many apply apply_many read read_detail barrier {KEY_CALLS} "
    "is_leader get_leader get_role get_term wait_for_leader get_stats get_cluster_info get_health_status "
    "health_check async_client reload update_config "
    "access add_principal remove_principal add_key revoke_key create_token rotate_token revoke_token forget_revoked"
)
ACCESS_CALLS = (
    "access add_principal remove_principal add_key revoke_key create_token rotate_token revoke_token forget_revoked"
)
CLIENT_CALLS = (
    f"submit submit_many apply apply_many read read_detail barrier {KEY_CALLS} "
    "status get_cluster_info locate reload_config close "
    f"{MEMBER_CALLS} {ACCESS_CALLS}"
)
API = {
    "forge_consensus.ConsensusService": SERVICE_CALLS,
    "forge_consensus.service.leader_task.LeaderTask": "",
    "forge_consensus.service.leader_task.while_leader": "",
    "forge_consensus.service.leader_task.Lead": "wait",
    "forge_consensus.client.pending_many.PendingMany": "applied failed done wait result outcomes add_done_callback",
    "forge_consensus.Client": CLIENT_CALLS,
    "forge_consensus.AsyncClient": CLIENT_CALLS,
    "forge_consensus.client.access_records.AccessInfo": "counts named holder",
    "forge_consensus.client.access_records.PrincipalInfo": "",
    "forge_consensus.client.access_records.TokenInfo": "",
    "forge_consensus.KeyEntry": "",
    "forge_consensus.client.watch.Watch": "get next_index close",
    "forge_consensus.client.aio_watch.AsyncWatch": "get next_index close",
    "forge_consensus.KeyChange": "",
    "forge_consensus.Lease": "keep_alive kept revoke left lost valid_for",
    "forge_consensus.client.leases.KeptLease": "begin end",
    "forge_consensus.client.aio_lease_calls.AsyncLease": ("keep_alive kept revoke left lost wait_lost valid_for"),
    "forge_consensus.client.key_records.LeaseInfo": "",
    "forge_consensus.Compare": "value created modified lease exists missing",
    "forge_consensus.client.key_records.TransactionResult": "",
    "forge_consensus.Command": "",
    "forge_consensus.Entry": "",
    "forge_consensus.StateMachine": "apply query snapshot restore",
    "forge_consensus.KeyValueMachine": "",
    "forge_consensus.Change": "",
    "forge_consensus.ClusterMembers": "part_of",
    "forge_consensus.MembersPlan": "is_done",
    "forge_consensus.load_config": "",
    "forge_consensus.LoadedConfig": "",
    "forge_consensus.ReloadReport": "lines",
    "forge_consensus.config.changes.SettingChange": "",
    "forge_consensus.ConsensusExtension": (
        "register start stop close lifespan around reload reload_soon health metrics dependencies is_leader get_leader "
        "get_role get_stats get_cluster_info apply read"
    ),
    "forge_consensus.LeadershipChecker": "standing is_leader get_leader require_leader require_quorum confirm",
    "forge_consensus.middleware.LeadershipMiddleware": (
        "require_leader add_leader_header read_only_routing redirect forward require_quorum consistency"
    ),
    "forge_consensus.middleware.Middleware": "wsgi",
    "forge_consensus.middleware.Confirmed": "",
    "forge_consensus.middleware.Consistency": "",
    "forge_consensus.Standing": "",
    "forge_consensus.EventBus": "subscribe on stream astream wait_for",
    "forge_consensus.EventFeed": "get aget positions silent close",
    "forge_consensus.Gap": "",
    "forge_consensus.events.log_lines.log_events": "",
}
"""Each public name with the methods that belong to its interface."""
TESTING = {
    "forge_consensus.testing.Simulation": (
        "run start advance leader wait_for_leader submit query crash restart pause partition heal subscribe close"
    ),
    "forge_consensus.testing.Plan": "",
    "forge_consensus.testing.Workload": "command query at_the_end",
    "forge_consensus.testing.Call": "",
    "forge_consensus.testing.ViolationError": "",
    "forge_consensus.testing.LocalCluster": (
        "start stop client endpoints leader followers wait_for_leader wait_until_settled kill shut_down restart pause "
        "resume partition isolate disturb heal status log_text service"
    ),
    "forge_consensus.testing.Proxy": "",
    "forge_consensus.testing.PathFaults": "",
    "forge_consensus.testing.History": "",
    "forge_consensus.testing.Operation": "",
    "forge_consensus.testing.check": "",
    "forge_consensus.testing.Verdict": "",
}
RECIPES = {
    "forge_consensus.recipes.Lock": "acquire try_acquire release guard contenders",
    "forge_consensus.recipes.RLock": "acquire release",
    "forge_consensus.recipes.Semaphore": "acquire try_acquire release holders",
    "forge_consensus.recipes.Permit": "release guard",
    "forge_consensus.recipes.Election": "campaign try_campaign leader observe",
    "forge_consensus.recipes.Leadership": "resign proclaim guard",
    "forge_consensus.recipes.Leader": "",
    "forge_consensus.recipes.Barrier": "create remove exists wait",
    "forge_consensus.recipes.Queue": "put get try_get take peek size",
    "forge_consensus.recipes.Item": "ack release guard",
    "forge_consensus.recipes.Counter": "add get set compare_and_set",
}
LINE_CHARS = 100
THOUSANDS_FROM = 10_000
MODULES = re.compile(r"\b(?:[a-z_]+\.)+(?=[A-Z])")
UNPACKED = re.compile(r"\*?<class \"[\w.]*?(\w+)\">|\*?(?:typing\.)?Unpack\[[\w.]*?(\w+)\]")
ARGUMENT = re.compile(r"^    (\w+): (.*)$")


def found_at(path: str) -> Any:
    """The object of that name."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def signature(name: str, called: Any, *, wide: bool = False) -> str:
    """A call as Python, without `self`; with `wide`, one longer than a line of text has a line for each parameter."""
    found = inspect.signature(called)
    parts: list[str] = []
    keyword_only = False
    for each in found.parameters.values():
        if each.name in ("self", "cls"):
            continue
        if each.kind is each.KEYWORD_ONLY and not keyword_only:
            parts.append("*")
            keyword_only = True
        keyword_only = keyword_only or each.kind is each.VAR_POSITIONAL
        parts.append(parameter(each))
    answer = found.return_annotation
    returned = "" if answer in (found.empty, None, "None", "Self") else f" -> {written(answer)}"
    line = f"{name}({', '.join(parts)}){returned}"
    if not wide or len(line) <= LINE_CHARS:
        return line
    return "\n".join([f"{name}(", *(f"    {part}," for part in parts), f"){returned}"])


def written(annotation: Any) -> str:
    """An annotation as it stands in the source, names without their modules, the same under every Python."""
    text: str = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    text = UNPACKED.sub(lambda found: found[1] or found[2], text.replace("'", '"').replace("NoneType", "None"))
    return MODULES.sub("", text)


def parameter(each: inspect.Parameter) -> str:
    """One parameter as Python writes it."""
    kind = each.annotation
    stars = "**" if each.kind is each.VAR_KEYWORD else "*" if each.kind is each.VAR_POSITIONAL else ""
    text = f"{stars}{each.name}"
    if kind is not each.empty:
        text += f": {written(kind)}"
    if each.default is each.empty:
        return text
    return f"{text} = {shown(each.default)}"


def shown(default: Any) -> str:
    """A default as Python writes it, the same in every process; thousands are separated."""
    if isinstance(default, str):
        return f'"{default}"'
    if type(default) is int and default >= THOUSANDS_FROM:
        return f"{default:_}"
    text = str(getattr(default, "__name__", repr(default)))
    return f"{type(default).__name__}()" if " object at 0x" in text else text  # no address in memory


def prose(thing: Any) -> list[str]:
    """A docstring as paragraphs; its "Args:" become a list."""
    text = (inspect.getdoc(thing) or "").replace("``", "`")
    lines: list[str] = []
    listing = False
    for line in text.splitlines():
        if line.strip() == "Args:":
            listing = True
            continue
        item = ARGUMENT.match(line) if listing else None
        if item:
            lines.append(f"- `{item[1]}`: {item[2]}")
        elif listing and line.startswith("        "):
            lines.append(f"  {line.strip()}")
        else:
            listing = listing and not line.strip()
            lines.append(f"{line.rstrip()[:-1]}" if line.rstrip().endswith("::") else line.rstrip())
    return lines


def is_plain(kind: Any) -> bool:
    """Whether a class is made of its fields alone."""
    return inspect.isclass(kind) and is_dataclass(kind) and "__init__" in vars(kind)


def is_called(thing: Any) -> bool:
    """Whether programs call it: it is no protocol, no error, and no class that is made of its fields alone."""
    if not inspect.isclass(thing):
        return True
    return not (is_plain(thing) or issubclass(thing, BaseException) or getattr(thing, "_is_protocol", False))


def field_lines(kind: Any) -> list[str]:
    """The fields of a dataclass with their defaults, and the string below each in the source."""
    said = sayings(kind)
    lines = ["| Field | Type | Default | Meaning |", "|---|---|---|---|"]
    for field in fields(kind):
        type_ = written(field.type)
        default = "-" if field.default is MISSING else f"`{shown(field.default)}`"
        if field.default_factory is not MISSING:
            default = "made anew"
        meaning = said.get(field.name, "")
        lines.append(f"| `{field.name}` | `{type_}` | {default} | {meaning} |".replace(" or |", " or \\|"))
    return [line.replace(" | None`", " or None`") for line in lines]


def sayings(kind: Any) -> dict[str, str]:
    """The string that stands below each field in the source."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    found: dict[str, str] = {}
    waiting: list[str] = []
    for node in getattr(tree, "body", []):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            waiting.append(node.target.id)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            text = " ".join(node.value.value.split()).replace("|", "\\|")
            for name in waiting[-1:]:
                found[name] = text
            waiting = []
    return found


def method_lines(kind: Any, name: str) -> list[str]:
    """One method: its call and its docstring, with its arguments as a nested list."""
    method = inspect.getattr_static(kind, name)
    if isinstance(method, property):
        call = name
    else:
        method = getattr(kind, name)
        call = f"{'await ' if inspect.iscoroutinefunction(method) else ''}{signature(name, method)}"
    return [f"- `{call}`", *(f"  {line}".rstrip() for line in ["", *prose(method)])]


def section(path: str, methods: str) -> list[str]:
    """The section of one public name."""
    module, _, name = path.rpartition(".")
    thing = found_at(path)
    lines = [f"### {name}", "", "```python", f"from {module} import {name}"]
    if is_called(thing):
        lines += ["", signature(name, thing, wide=True)]
    lines += ["```", "", *prose(thing)]
    init = vars(thing).get("__init__") if inspect.isclass(thing) else None
    if init is not None and init.__doc__ and not is_plain(thing):
        lines += ["", *prose(init)]
    if is_plain(thing):
        lines += ["", *field_lines(thing)]
    if methods:
        lines += [""]
        for method in methods.split():
            lines += method_lines(thing, method)
    return [*lines, ""]


def page() -> list[str]:
    """The names of a program that uses a cluster."""
    return [line for path, methods in API.items() for line in section(path, methods)]


def recipes_page() -> list[str]:
    """The names of the recipes."""
    return [line for path, methods in RECIPES.items() for line in section(path, methods)]


def testing_page() -> list[str]:
    """The names of the test kit."""
    return [line for path, methods in TESTING.items() for line in section(path, methods)]
