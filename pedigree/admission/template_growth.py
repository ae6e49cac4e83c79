"""Chat templates that would take for ever, or fill the memory: what can be seen without rendering.

A sandbox stops a template that reaches out, and not one that doubles a text forty times. What is
carried through a loop (attributes of a namespace) or a recursion (arguments of a macro) may grow by
a piece each time. It may not be joined to itself, multiplied or escaped anew. The rules know no
values, so what they object to is for a person to look at.
"""

import re
from collections import defaultdict
from collections.abc import Iterator

from jinja2 import nodes

from pedigree.admission.verdict import words

_LARGEST = 1_000_000
_MOST_TURNS = 1_000_000  # of loops within each other, as far as they are written down
_RANGE = 100_000  # the sandbox's own limit
_WIDEST = 10_000
_MOST_DOUBLINGS = 10
# The longest of published models have some 150, 500 and 10.
_MOST_NAMES, _MOST_CALLS, _MOST_MACROS = 400, 4_000, 100
_LONG = 1_000  # characters that are put in place of one
_PADDING = words("ljust rjust center zfill expandtabs indent wordwrap batch slice truncate")
_MULTIPLYING = words("join replace tojson escape e urlencode indent format forceescape xmlattr")
_SPLITTING = words("split rsplit partition rpartition")
_NUMBERS = words("length count int float abs round first last default string")
_WIDTH = re.compile(r"%[-+ #]*0*(\d{5,}|\*)|\{[^{}]*:[^{}]*\d{5,}")


def objections_to_growth(tree: nodes.Template) -> Iterator[str]:
    """Yield a clause for each thing that may grow or go on without a bound."""
    yield from _objections_to_constants(tree)
    made = sum(1 for _ in tree.find_all((nodes.Assign, nodes.AssignBlock)))
    calls = sum(1 for _ in tree.find_all(nodes.Call))
    if (
        made > _MOST_NAMES
        or calls > _MOST_CALLS
        or sum(1 for _ in tree.find_all(nodes.Macro)) > _MOST_MACROS
    ):
        yield "it has more variables, calls or macros than can be followed"
        return
    names = _Names(tree)
    yield from _objections_to_turns(tree, names, 1)
    yield from names.objections()


def _objections_to_constants(tree: nodes.Template) -> Iterator[str]:
    for node in tree.find_all((nodes.Const, nodes.Call, nodes.Filter, nodes.For, nodes.Pow)):
        if isinstance(node, nodes.Pow) and not isinstance(node.left, nodes.Const):
            yield f"line {node.lineno} raises what it computes to a power"
        elif isinstance(node, nodes.Const):
            if isinstance(node.value, int | float) and abs(node.value) > _LARGEST:
                yield f"line {node.lineno} holds a number above {_LARGEST}"
            elif isinstance(node.value, str) and _WIDTH.search(node.value):
                yield f"line {node.lineno} writes in a field of any width"
        elif isinstance(node, nodes.For):
            if node.recursive:
                yield f"line {node.lineno} has a loop that calls itself"
        elif isinstance(node, nodes.Call | nodes.Filter):
            yield from _objections_to_padding(node)


def _objections_to_padding(node: nodes.Call | nodes.Filter) -> Iterator[str]:
    name = _operation(node)
    arguments = [*node.args, *(item.value for item in node.kwargs)]
    constants = [item.value for item in arguments if isinstance(item, nodes.Const)]
    if name in _PADDING and any(type(n) is int and n > _WIDEST for n in constants):
        yield f"line {node.lineno} pads to more than {_WIDEST} characters"
    if name in ("replace", "join") and any(
        isinstance(n, str) and len(n) > _LONG for n in constants
    ):
        yield f"line {node.lineno} puts a long text in place of short ones"


def _operation(node: nodes.Node) -> str:
    """Return the name of a filter or a method; empty for anything else."""
    if isinstance(node, nodes.Filter):
        return str(node.name)
    if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr):
        return node.node.attr
    return ""


def _operands(node: nodes.Node) -> list[nodes.Node]:
    """Return what an expression works on; for a method, what it is called on."""
    if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr):
        return [node.node.node, *node.args, *node.kwargs]
    return list(node.iter_child_nodes())


def _multiplies(node: nodes.Node) -> bool:
    """Whether an operation may put long texts in place of short ones."""
    name = _operation(node)
    arguments = node.args if isinstance(node, nodes.Call | nodes.Filter) else []
    texts = [item.value for item in arguments if isinstance(item, nodes.Const)]
    if name == "replace" and len(texts) > 1 and all(isinstance(text, str) for text in texts[:2]):
        return len(texts[1]) > len(texts[0]) or not texts[0]
    if name == "join" and isinstance(node, nodes.Filter):
        return bool(arguments) and texts[:1] != [""]
    return name in _MULTIPLYING


class _Names:
    """What each variable, attribute of a namespace and parameter of a macro is made from."""

    def __init__(self, tree: nodes.Template) -> None:
        self.tree = tree
        self.macros = {macro.name: macro for macro in tree.find_all(nodes.Macro)}
        self.made: dict[str, list[nodes.Node]] = defaultdict(list)
        for node in tree.find_all(nodes.Assign):
            self._assign(node.target, node.node)
        for node in tree.find_all(nodes.AssignBlock):
            self._assign(node.target, nodes.List(list(node.body)))
        for call in tree.find_all(nodes.Call):
            macro = self.macros.get(call.node.name) if isinstance(call.node, nodes.Name) else None
            if macro is not None:
                for parameter, argument in self.arguments(macro, call):
                    self.made[parameter].append(argument)
        self._reached: dict[str, frozenset[str]] = {}
        self._depths: dict[str, int] = {}
        called = {id(call.node) for call in tree.find_all(nodes.Call)}
        self._passed = frozenset(
            node.name for node in tree.find_all(nodes.Name)
            if node.name in self.macros and id(node) not in called
        )  # fmt: skip
        self._called = {
            name: frozenset().union(*map(self._callees, macro.find_all(nodes.Call)))
            for name, macro in self.macros.items()
        }

    @staticmethod
    def arguments(macro: nodes.Macro, call: nodes.Call) -> list[tuple[str, nodes.Node]]:
        """Return the arguments of a call beside the names of the parameters."""
        names = [argument.name for argument in macro.args]
        named = [(item.key, item.value) for item in call.kwargs]
        return [*zip(names, call.args, strict=False), *named]

    def _callees(self, call: nodes.Call) -> frozenset[str]:
        """Return the macros that a call may mean: an item of a list, each that is in some list."""
        if isinstance(call.node, nodes.Name):
            return frozenset([call.node.name]) & self.macros.keys()
        return self._passed if isinstance(call.node, nodes.Getitem) else frozenset()

    def _assign(self, target: nodes.Node, value: nodes.Node) -> None:
        if isinstance(target, nodes.Tuple):
            for item in target.items:
                self._assign(item, value)
        elif key := _key(target):
            self.made[key].append(value)

    def reached(self, key: str) -> frozenset[str]:
        """Return all that a name is made from, directly or through others."""
        if key not in self._reached:
            found: set[str] = set()
            waiting = [key]
            while waiting:
                for value in self.made.get(waiting.pop(), []):
                    new = {name for name in _keys(value) if name in self.made} - found
                    found |= new
                    waiting += new
            self._reached[key] = frozenset(found)
        return self._reached[key]

    def times(self, node: nodes.Node, key: str) -> int:
        """Return how many times over a value would hold what `key` held before; at most 3."""
        own = _key(node)
        if own:
            return int(own == key or key in self.reached(own))
        if isinstance(node, nodes.Compare | nodes.Test | nodes.Not | nodes.Const):
            return 0
        if isinstance(node, nodes.CondExpr):
            branches = [node.expr1, *([node.expr2] if node.expr2 else [])]
            return max(self.times(branch, key) for branch in branches)
        if isinstance(node, nodes.And | nodes.Or):
            return max(self.times(node.left, key), self.times(node.right, key))
        if isinstance(node, nodes.Getitem):
            return self.times(node.node, key)  # a part, wherever it lies
        if isinstance(node, nodes.Filter) and node.name in _NUMBERS:
            return self.times(node.node, key) if node.node is not None else 0
        if isinstance(node, nodes.Add | nodes.Concat):
            return min(3, self._times_in_sum(node, key))
        if isinstance(node, nodes.Mul | nodes.Pow):
            return min(3, 2 * self._mentions(node, key))
        if _operation(node) in _PADDING:
            return min(3, self._mentions(node, key))
        count = sum(self.times(child, key) for child in _operands(node))
        return min(3, count * 2 if _multiplies(node) else count)

    def _times_in_sum(self, node: nodes.Node, key: str) -> int:
        """Return the same for a sum, where parts of one thing count once.

        Items of `p = x.split(y, 1)` are together no longer than `x`; `x[:-1] + [f(x[-1])]` only
        puts another last item in place.
        """
        terms = _terms(node)
        counts = [self.times(term, key) for term in terms]
        taken: dict[str, set[object]] = defaultdict(set)
        for place, term in enumerate(terms):
            if not isinstance(term, nodes.Getitem) or not (own := _key(term.node)):
                continue
            if isinstance(term.arg, nodes.Const):
                made = self.made.get(own, [])
                if made and all(_operation(value) in _SPLITTING for value in made):
                    if taken[own] and term.arg.value not in taken[own]:
                        counts[place] = 0
                    taken[own].add(term.arg.value)
            elif _is_minus_one(getattr(term.arg, "stop", None)):
                rest = terms[:place] + terms[place + 1 :]
                if all(self._takes_last(other, own) for other in rest):
                    return max(counts[place], sum(counts) - counts[place])
        return sum(counts)

    def _takes_last(self, node: nodes.Node, key: str) -> bool:
        """Whether an expression holds of a list at most its last item."""
        waiting = [node]
        while waiting:
            item = waiting.pop()
            own = _key(item)
            made = self.made.get(own, [])
            if _is_last(item, key) or (made and all(_is_last(value, key) for value in made)):
                continue
            if own and (own == key or key in self.reached(own)):
                return False
            if not own:
                waiting += item.iter_child_nodes()
        return True

    def _mentions(self, node: nodes.Node, key: str) -> int:
        return sum(own == key or key in self.reached(own) for own in _keys(node))

    def objections(self) -> Iterator[str]:
        doublings = 0
        recursive = {
            parameter.name for macro in self.macros.values() for parameter in macro.args
            if any(self._calls(name, macro.name) for name in self._called[macro.name])
        }  # fmt: skip
        for key, values in self.made.items():
            if key not in self.reached(key):
                continue
            carried = "." in key or key in recursive
            for value in values:
                if self.times(value, key) > 1:
                    doublings += 1
                    if carried:
                        yield f"line {value.lineno} lets {key[:40]!r} grow at each turn"
        if doublings > _MOST_DOUBLINGS:
            yield f"it lets texts grow {doublings} times over"
        chain = max((self._depth(key) for key in list(self.made)), default=0)
        nested = max((self._products(node) for node in self.tree.find_all(nodes.Mul)), default=0)
        if chain > 3 or nested > 2:
            yield "it multiplies what was multiplied"
        for macro in self.macros.values():
            yield from self._objections_to_recursion(macro)

    def _depth(self, key: str) -> int:
        """Return how many products, and sums of a text with itself, a name is made by in a row."""
        if key in self._depths:
            return self._depths[key]
        self._depths[key] = 0  # for a name that is made from itself
        most = 0
        for value in self.made[key]:
            named = [name for name in _keys(value) if name in self.made]
            repeats = isinstance(value, nodes.Mul) or value.find(nodes.Mul) is not None
            repeats = repeats or (_is_sum(value) and len(set(named)) < len(named))
            most = max(most, max(map(self._depth, named), default=0) + repeats)
        self._depths[key] = most
        return most

    def _products(self, node: nodes.Node) -> int:
        """Return how many products lie within each other, also through names."""
        inner = [self._products(child) for child in node.iter_child_nodes()]
        inner += [self._depth(key) for key in _keys(node) if key in self.made]
        return max(inner, default=0) + isinstance(node, nodes.Mul)

    def _objections_to_recursion(self, macro: nodes.Macro) -> Iterator[str]:
        """Object to two ways down that do not go to a part of what the macro was given."""
        calls = [
            call for call in macro.find_all(nodes.Call)
            if any(self._calls(name, macro.name) for name in self._callees(call))
        ]  # fmt: skip
        loops = list(macro.find_all(nodes.For))
        turned = {id(call) for loop in loops for call in loop.find_all(nodes.Call)}
        looped = any(id(call) in turned for call in calls)
        targets = {
            name for loop in loops if not isinstance(loop.iter, nodes.List | nodes.Tuple)
            for name in _keys(loop.target)
        }  # fmt: skip
        level = [call for call in calls if not any(self._descends(a, targets) for a in call.args)]
        if level and (len(level) > 1 or looped):
            yield f"line {level[0].lineno} calls the macro {macro.name!r} anew, on nothing less"

    def _calls(self, name: str, wanted: str) -> bool:
        seen: set[str] = set()
        waiting = [name]
        while waiting:
            current = waiting.pop()
            if current == wanted:
                return True
            if current in seen or current not in self.macros:
                continue
            seen.add(current)
            waiting += self._called[current]
        return False

    def _descends(self, node: nodes.Node, targets: set[str]) -> bool:
        """Whether an argument is a part of something: an item, an attribute, a turn of a loop."""
        seen: set[str] = set()
        waiting = [node]
        while waiting:
            item = waiting.pop()
            if isinstance(item, nodes.Getitem):
                if not isinstance(item.arg, nodes.Slice):
                    return True
            elif isinstance(item, nodes.Getattr) or _operation(item) == "get":
                return True
            elif isinstance(item, nodes.Filter) and item.node is not None:
                waiting.append(item.node)
            elif isinstance(item, nodes.CondExpr | nodes.Or):
                ways = (
                    [item.left, item.right]
                    if isinstance(item, nodes.Or)
                    else [item.expr1, item.expr2]
                )
                ways = [way for way in ways if way is not None and not _is_leaf(way)]
                if ways and all(self._descends(way, targets) for way in ways):
                    return True
            elif isinstance(item, nodes.Dict):  # a part in a new wrapping
                values = [pair.value for pair in item.items if not _is_leaf(pair.value)]
                if values and all(_key(value) in targets for value in values):
                    return True
            elif isinstance(item, nodes.Name):
                if item.name in targets:
                    return True
                if item.name not in seen:
                    seen.add(item.name)
                    waiting += self.made.get(item.name, [])
        return False


def _is_leaf(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Const) or (
        isinstance(node, nodes.List | nodes.Tuple | nodes.Dict) and not node.items
    )


def _key(node: nodes.Node) -> str:
    if isinstance(node, nodes.Name):
        return node.name
    if isinstance(node, nodes.NSRef):
        return f"{node.name}.{node.attr}"
    if isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name):
        return f"{node.node.name}.{node.attr}"
    if (
        isinstance(node, nodes.Getitem)
        and isinstance(node.node, nodes.Name)
        and isinstance(node.arg, nodes.Const)
        and isinstance(node.arg.value, str)
    ):
        return f"{node.node.name}.{node.arg.value}"
    return ""


def _keys(node: nodes.Node) -> list[str]:
    """Return the names within an expression, each as often as it is there."""
    found: list[str] = []
    waiting = [node]
    while waiting:
        item = waiting.pop()
        key = _key(item)
        if key:
            found.append(key)
            if "." in key:
                found.append(key.partition(".")[0])
        else:
            waiting += item.iter_child_nodes()
    return found


def _terms(node: nodes.Node) -> list[nodes.Node]:
    """Return what a sum joins, without texts of a length, which add nothing to speak of."""
    terms: list[nodes.Node] = []
    waiting = [node]
    while waiting:
        item = waiting.pop()
        if isinstance(item, nodes.Add):
            waiting += [item.left, item.right]
        elif isinstance(item, nodes.Concat):
            waiting += item.nodes
        elif not (
            isinstance(item, nodes.Filter)
            and item.name == "string"
            and isinstance(item.node, nodes.Filter)
            and item.node.name in ("length", "count")
        ):
            terms.append(item)
    return terms


def _is_minus_one(node: nodes.Node | None) -> bool:
    return (
        isinstance(node, nodes.Neg) and isinstance(node.node, nodes.Const) and node.node.value == 1
    )


def _is_last(node: nodes.Node, key: str) -> bool:
    return isinstance(node, nodes.Getitem) and _key(node.node) == key and _is_minus_one(node.arg)


def _is_sum(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Add | nodes.Concat | nodes.List | nodes.Tuple | nodes.Dict)


def _objections_to_turns(node: nodes.Node, names: _Names, turns: int) -> Iterator[str]:
    if isinstance(node, nodes.For):
        turns *= _turns(node.iter, names)
        if turns > _MOST_TURNS:
            yield f"line {node.lineno} is reached {turns} times"
    for child in node.iter_child_nodes():
        yield from _objections_to_turns(child, names, turns)


def _turns(node: nodes.Node, names: _Names) -> int:
    """Return how often a loop turns, as far as it is written down; 1 where its input decides."""
    if isinstance(node, nodes.List | nodes.Tuple):
        return max(len(node.items), 1)
    known = all(key in names.made for key in _keys(node) if key != "range")
    outside = {
        key for name in _keys(node) for made in [name, *names.reached(name)]
        for value in names.made.get(made, []) for key in _keys(value) if key not in names.made
    }  # fmt: skip
    if not known or outside:
        return 1
    if isinstance(node, nodes.Const):
        return max(len(node.value), 1) if isinstance(node.value, str) else 1
    if isinstance(node, nodes.Call) and all(isinstance(item, nodes.Const) for item in node.args):
        counts = [item.value for item in node.args if isinstance(item, nodes.Const)]
        return max([abs(n) for n in counts if isinstance(n, int)], default=1)
    return _RANGE
