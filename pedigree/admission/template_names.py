"""Names that a chat template puts together to reach what it may not name.

`{% set u = '_' %}{{ x[u ~ u ~ 'class' ~ u ~ u] }}` reads a private attribute without naming it. So
variables, loops and parameters are followed to what they are set to.
"""

import re
import types
from collections import defaultdict

from jinja2 import nodes

from pedigree.admission.verdict import words

Made = dict[str, list[nodes.Node]]

_PRIVATE = re.compile(r"__(class|base|mro|import|builtins|globals|subclasses|init|dict)")
_DUNDER = re.compile(r"(?=(__[a-z]\w*?__))")
# A name that Python gives nothing, such as `__sentinel__`, leads nowhere.
_TYPES = (
    *(int, str, list, dict, type, BaseException, property, type(re), type(re.compile)),
    *(types.BuiltinFunctionType, types.MethodType, types.CodeType, types.FrameType),
    *(types.TracebackType, types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType),
)
_PYTHONS = {name for kind in _TYPES for name in (*dir(kind), *vars(kind))} | words(
    "__import__ __wrapped__ __loader__ __spec__ __file__ __path__ __main__ __package__"
)
_MAY_MAKE_NAMES = re.compile(r"[_%{]")  # an underscore, or a format that can write one
MOST_STEPS = 1_000  # expressions followed for one subscript; 818 published templates have 117
_COUNTS = frozenset(["length", "count", "int"])


def is_private(value: object) -> bool:
    """Whether a text holds a private name that Python gives its objects."""
    if not isinstance(value, str) or "__" not in value:
        return False
    return _PRIVATE.search(value) is not None or any(
        name in _PYTHONS for name in _DUNDER.findall(value)
    )


def values_of(tree: nodes.Template) -> Made:
    """Return what each variable, attribute of a namespace, parameter and `macro()` may hold."""
    made: Made = defaultdict(list)
    for node in tree.find_all((nodes.Assign, nodes.AssignBlock, nodes.For, nodes.With)):
        for target, value in _settings(node):
            for name in (target, *target.find_all((nodes.Name, nodes.NSRef))):
                if key := _key(name):
                    made[key].append(value)
    called = [
        *((macro.name, macro) for macro in tree.find_all(nodes.Macro)),
        *(("caller", block) for block in tree.find_all(nodes.CallBlock)),
    ]
    for name, block in called:
        made[f"{name}()"].append(nodes.Concat(list(block.body)))
        for argument, value in zip(reversed(block.args), reversed(block.defaults), strict=False):
            made[argument.name].append(value)
    parameters = {name: [item.name for item in block.args] for name, block in called}
    for call in tree.find_all(nodes.Call):
        names = parameters.get(call.node.name, []) if isinstance(call.node, nodes.Name) else []
        for name, value in zip(names, call.args, strict=False):
            made[name].append(value)
        for item in call.kwargs:
            if item.key in names:
                made[item.key].append(item.value)
    return made


def _settings(node: nodes.Node) -> list[tuple[nodes.Node, nodes.Node]]:
    if isinstance(node, nodes.Assign):
        return [(node.target, node.node)]
    if isinstance(node, nodes.AssignBlock):
        changed = [node.filter] if node.filter is not None else []
        return [(node.target, nodes.Concat([*node.body, *changed]))]
    if isinstance(node, nodes.For):
        return [(node.target, node.iter)]
    if isinstance(node, nodes.With):
        return list(zip(node.targets, node.values, strict=True))
    return []


def builds_a_name(node: nodes.Node, made: Made, functions: set[str]) -> bool:
    """Whether an expression makes a text of pieces that can hold an underscore.

    Variables are followed to what they are set to. A text that only names a field of the input
    (`message['role'] | lower`), and one that is replaced, are no pieces.
    """
    if isinstance(node, nodes.Slice):
        return False
    pieces = joins = False
    steps = 0
    seen: set[tuple[str, str]] = set()
    waiting = [(node, "")]  # beside each the field that is taken of it
    while waiting:
        part, field = waiting.pop()
        steps += 1
        if steps > MOST_STEPS:
            return True
        if field and isinstance(part, nodes.Const | nodes.TemplateData | nodes.Concat):
            continue  # a text has no fields
        if isinstance(part, nodes.Const | nodes.TemplateData):
            text = part.value if isinstance(part, nodes.Const) else part.data
            pieces = pieces or (isinstance(text, str) and _MAY_MAKE_NAMES.search(text) is not None)
        elif isinstance(part, nodes.Keyword):
            pieces = pieces or "_" in part.key
        key = _key(part)
        if isinstance(part, nodes.Name):  # as a text, `<function raise_exception at ...>`
            pieces = pieces or key in ("varargs", "kwargs")
            pieces = pieces or ("_" in key and key in functions)
        if key and (key, field) not in seen:
            seen.add((key, field))
            waiting += [(value, field) for value in made.get(key, [])]
        joins = joins or _joins(part)
        waiting += _pieces(part, field)
    return joins and pieces


def _joins(node: nodes.Node) -> bool:
    """Whether an expression makes a text of others; a sum of lists does not."""
    if isinstance(node, nodes.Add):
        return not isinstance(node.left, nodes.List) and not isinstance(node.right, nodes.List)
    if isinstance(node, nodes.Getitem):
        return isinstance(node.arg, nodes.Slice)
    return isinstance(node, nodes.Mod | nodes.Mul | nodes.Filter | nodes.Call | nodes.Concat)


def _key(node: nodes.Node) -> str:
    if isinstance(node, nodes.Name):
        return node.name
    if isinstance(node, nodes.NSRef):
        return f"{node.name}.{node.attr}"
    if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Name):
        return f"{node.node.name}()"
    if isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name):
        return f"{node.node.name}.{node.attr}"
    return ""


def _pieces(node: nodes.Node, field: str) -> list[tuple[nodes.Node, str]]:
    """Return what an expression, or a field of it, is made of; beside each the field of that."""
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        return [(node.node, node.arg.value if isinstance(node.arg.value, str) else field)]
    if isinstance(node, nodes.Getattr):
        return [(node.node, node.attr)]
    if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr):
        rest = [(item, "") for item in (*node.args, *node.kwargs)]
        first = node.args[0] if node.args else None
        if node.node.attr == "get" and isinstance(first, nodes.Const):
            return [(node.node.node, str(first.value)), *rest[1:]]
        return [(node.node.node, ""), *rest]
    if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Name):
        named = [item for item in node.kwargs if field in ("", item.key)]
        inner = [(item.value if field else item, "") for item in named]
        return [*((item, field) for item in node.args), *inner]
    if isinstance(node, nodes.Dict) and field:
        taken = [
            pair for pair in node.items
            if not isinstance(pair.key, nodes.Const) or pair.key.value == field
        ]  # fmt: skip
        return [(pair.value, "") for pair in taken]
    if isinstance(node, nodes.Filter) and node.name in _COUNTS:
        return []
    if isinstance(node, nodes.Filter) and node.name == "replace" and node.node is not None:
        return [(item, "") for item in (node.node, *node.args[1:], *node.kwargs)]
    if isinstance(node, nodes.Compare | nodes.Test):
        return []
    passing = nodes.Add | nodes.CondExpr | nodes.Or | nodes.And | nodes.List | nodes.Getitem
    if not isinstance(node, passing):
        field = ""
    return [(child, field) for child in node.iter_child_nodes()]
