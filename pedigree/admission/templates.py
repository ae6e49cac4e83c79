"""Chat templates: parsed by a sandboxed Jinja and searched for what reaches out; never rendered.

A chat template is a program that the tokenizer's reader runs on each conversation. It needs loops,
conditions, a few filters and the methods of texts, lists and dicts. Whatever else it names, calls
or subscripts is refused: private attributes, globals of Jinja and of web frameworks, imports,
names put together from pieces, and loops without a bound.
"""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pedigree.admission.verdict import Report, show, words

if TYPE_CHECKING:
    from jinja2 import nodes

_LONGEST = 200_000  # characters; the longest of published models have about 30,000
_FUNCTIONS = words("raise_exception strftime_now range namespace dict caller loop zip str")
_METHODS = (
    frozenset(name for kind in (str, list, dict) for name in dir(kind) if not name.startswith("_"))
    - {"format_map", "translate", "maketrans", "encode"}
) | {"cycle", "changed", "isoformat", "strftime"}
_GLOBALS = words("self cycler joiner lipsum super")  # Jinja's own: no template can shadow them all
_DENIED_NAMES = _GLOBALS | words(
    "request config url_for get_flashed_messages application session "
    "g app "
    "os sys subprocess importlib builtins eval exec open compile getattr setattr globals locals "
    "vars "
    "dir environ environment context self_ import modules popen system chr ord type object"
)
_DENIED_ATTRIBUTES = re.compile(
    r"_.*|mro|gi_\w+|cr_\w+|ag_\w+|tb_\w+|f_(globals|locals|builtins|code|back)|func_\w+|im_\w+"
    r"|environ|popen|modules|subprocess|builtins|globals|import_module|eval|exec"
    r"|getattribute|format_map"
)
_ATTRIBUTE_FILTERS = words(
    "map selectattr rejectattr groupby sort sum unique min max select reject join"
)
_DENIED_FILTERS = frozenset(["attr", "xmlattr", "pprint", "random", "urlize", "forceescape"])
_LARGE = 100_000
_MAX_LOOPS = 6  # within each other


def judge_template(text: str, name: str, where: str, report: Report, sure: bool = True) -> None:
    """Judge one template.

    Args:
        text: the template.
        name: what the finding calls it.
        where: the file.
        report: takes the findings, and counts the characters.
        sure: whether it is certainly meant as one; a text that only looks like one and does not
            parse is left alone.

    Raises:
        TooMuch: the scan's limit of templates was reached.
    """
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    from pedigree.admission.template_growth import objections_to_growth
    from pedigree.admission.template_names import is_private

    if len(text) > _LONGEST:
        report.reject(
            where,
            "template",
            f"the template {show(name)!r} has {len(text)} characters (at most {_LONGEST}).",
        )
        return
    report.spend_template(len(text))
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do", _generation_tag()],
    )
    try:
        tree = environment.parse(text)
    except (jinja2.TemplateError, RecursionError, MemoryError, ValueError, OverflowError) as error:
        if sure or is_private(text):
            report.reject(
                where,
                "template",
                f"the template {show(name)!r} does not parse ({show(str(error))}).",
            )
        return
    try:
        reason = next(_objections(tree), None)
    except RecursionError:
        reason = "it is nested too deep"
    if reason is not None:
        report.reject(
            where, "template", f"the sandbox refuses the template {show(name)!r}: {reason}."
        )
        return
    try:
        reason = next(objections_to_growth(tree), None)
    except RecursionError:
        reason = "it is nested too deep"
    if reason is not None:
        report.quarantine(
            where,
            "template_growth",
            f"the template {show(name)!r} may not end, or fill the memory: {show(reason)}.",
        )


def _generation_tag() -> Any:
    """Return the extension for `{% generation %}`, which marks what the assistant says."""
    from jinja2 import nodes
    from jinja2.ext import Extension

    class GenerationTag(Extension):
        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.If(nodes.Const(True), body, [], []).set_lineno(line)

    return GenerationTag


def _objections(tree: "nodes.Template") -> Iterator[str]:
    from jinja2 import nodes

    from pedigree.admission.template_names import is_private, values_of

    macros = {node.name for node in tree.find_all(nodes.Macro)}
    stored = {node.name for node in tree.find_all(nodes.Name) if node.ctx != "load"} - _GLOBALS
    made = values_of(tree)
    yield from _objections_to_loops(tree, 0, set())
    for node in tree.find_all(nodes.Node):
        if isinstance(node, nodes.Import | nodes.FromImport | nodes.Include | nodes.Extends):
            yield f"line {node.lineno} loads another template"
        elif isinstance(node, nodes.Name):
            denied = node.name in _DENIED_NAMES or node.name.startswith("__")
            if (denied and node.name not in stored) or is_private(node.name):
                yield f"line {node.lineno} names {show(node.name)}"
        elif isinstance(node, nodes.Getattr):
            if _DENIED_ATTRIBUTES.fullmatch(node.attr):
                yield f"line {node.lineno} reaches for the attribute {show(node.attr)}"
        elif isinstance(node, nodes.Getitem):
            yield from _objections_to_subscript(node, made, macros)
        elif isinstance(node, nodes.Filter | nodes.Test):
            yield from _objections_to_filter(node)
        elif isinstance(node, nodes.Call):
            yield from _objections_to_call(node, macros, made)
        elif isinstance(node, nodes.Mul | nodes.Pow):
            yield from _objections_to_product(node)
        elif isinstance(node, nodes.Const) and is_private(node.value):
            yield f"line {node.lineno} holds the name {show(str(node.value)[:60])!r}"
        elif isinstance(node, nodes.Keyword) and is_private(node.key):
            yield f"line {node.lineno} holds the name {show(node.key[:60])!r}"


def _objections_to_loops(node: "nodes.Node", depth: int, within: set[str]) -> Iterator[str]:
    from jinja2 import nodes

    if isinstance(node, nodes.For):
        depth += 1
        if depth > _MAX_LOOPS:
            yield f"line {node.lineno} has loops {depth} deep"
    if isinstance(node, nodes.Macro):
        within = within | {node.name}
    if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Name):
        counts = [arg.value for arg in node.args if isinstance(arg, nodes.Const)]
        large = [n for n in counts if isinstance(n, int) and abs(n) > 1000]
        if node.node.name == "range" and (large and (depth > 1 or max(large) > _LARGE)):
            yield f"line {node.lineno} counts to {max(map(abs, large))}"
    for child in node.iter_child_nodes():
        yield from _objections_to_loops(child, depth, within)


def _objections_to_subscript(
    node: "nodes.Getitem", made: dict[str, list["nodes.Node"]], macros: set[str]
) -> Iterator[str]:
    from jinja2 import nodes

    from pedigree.admission.template_names import builds_a_name

    if isinstance(node.arg, nodes.Const):
        if isinstance(node.arg.value, str) and _DENIED_ATTRIBUTES.fullmatch(node.arg.value):
            yield f"line {node.lineno} reaches for the item {show(node.arg.value)!r}"
    elif isinstance(node.arg, nodes.Concat) or builds_a_name(node.arg, made, macros | _FUNCTIONS):
        yield f"line {node.lineno} puts the name of an item together from pieces"


def _objections_to_filter(node: "nodes.Filter | nodes.Test") -> Iterator[str]:
    from jinja2 import nodes

    if isinstance(node, nodes.Test):
        return
    if node.name in _DENIED_FILTERS:
        yield f"line {node.lineno} uses the filter {show(str(node.name))}"
    if node.name not in _ATTRIBUTE_FILTERS:
        return
    named = [item.value for item in node.kwargs if item.key == "attribute"]
    first = node.args[:1] if node.name in ("selectattr", "rejectattr", "groupby") else []
    inner = node.args[:1] if node.name in ("map", "select", "reject") else []
    for argument in [*named, *first]:
        if not isinstance(argument, nodes.Const):
            yield f"line {node.lineno} looks up an attribute by a computed name"
        elif isinstance(argument.value, str) and any(
            _DENIED_ATTRIBUTES.fullmatch(part) for part in argument.value.split(".")
        ):
            yield f"line {node.lineno} reaches for the attribute {show(argument.value)!r}"
    for argument in inner:
        if not isinstance(argument, nodes.Const) or argument.value in _DENIED_FILTERS:
            yield f"line {node.lineno} applies a filter that it computes or that is refused"


def _objections_to_call(
    node: "nodes.Call", macros: set[str], made: dict[str, list["nodes.Node"]]
) -> Iterator[str]:
    from jinja2 import nodes

    called = node.node
    if isinstance(called, nodes.Name):
        if called.name not in _FUNCTIONS and called.name not in macros:
            yield f"line {node.lineno} calls {show(called.name)}"
    elif isinstance(called, nodes.Getattr):
        if called.attr not in _METHODS:
            yield f"line {node.lineno} calls the method {show(called.attr)}"
        elif called.attr == "format":
            text = called.node.value if isinstance(called.node, nodes.Const) else None
            if not isinstance(text, str) or re.search(r"\{[^{}]*[.\[_][^{}]*\}", text):
                yield f"line {node.lineno} formats what it cannot be seen to be harmless"
    elif not _is_listed_macro(called, macros, made):
        yield f"line {node.lineno} calls what it computes"


def _is_listed_macro(
    node: "nodes.Node", macros: set[str], made: dict[str, list["nodes.Node"]]
) -> bool:
    """Whether an expression is an item of a list that holds only the template's own macros."""
    from jinja2 import nodes

    from pedigree.admission.template_names import MOST_STEPS

    if not isinstance(node, nodes.Getitem) or not isinstance(node.node, nodes.Name):
        return False
    name = node.node.name
    waiting = list(made.get(name, []))
    steps = 0
    if not waiting:
        return False
    while waiting:
        steps += 1
        if steps > MOST_STEPS:
            return False
        part = waiting.pop()
        if isinstance(part, nodes.Name):
            if part.name != name and part.name not in macros:
                return False
        elif isinstance(part, nodes.List | nodes.Add):
            waiting += part.iter_child_nodes()
        else:
            return False
    return True


def _objections_to_product(node: "nodes.Mul | nodes.Pow") -> Iterator[str]:
    from jinja2 import nodes

    for side in (node.left, node.right):
        if isinstance(side, nodes.Const) and isinstance(side.value, int) and side.value > 10_000:
            yield f"line {node.lineno} multiplies by {str(side.value)[:20]}"
    if isinstance(node, nodes.Pow) and not isinstance(node.right, nodes.Const):
        yield f"line {node.lineno} raises to a computed power"
