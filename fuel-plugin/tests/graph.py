"""A graph of tasks over the nodes of a cloud, as Fuel 9.x makes one of requires, required_for and cross-depends."""

import re

ROLES = {
    "1": ["primary-controller"],
    "2": ["controller"],
    "3": ["controller"],
    "4": ["compute"],
    "5": ["compute"],
}


def matches(pattern, name):
    """Names between slashes are regular expressions, searched for."""
    if pattern.startswith("/") and pattern.endswith("/"):
        return re.search(pattern.strip("/"), name) is not None
    return pattern == name


def merged(core, ours):
    """Returns the core's tasks with ours in place of those that have the same id."""
    tasks = {}
    for stage, before in zip(core["stages"], [None] + core["stages"]):
        tasks[stage] = {"groups": None, "requires": [before] if before else [], "required_for": [], "cross": []}
    for name, task in core["tasks"].items():
        cross = [(other, None) for other in task.get("cross", [])]
        tasks[name] = {"groups": None, "requires": task["requires"], "required_for": task["required_for"], "cross": cross}
    for task in ours:
        cross = [(entry["name"], entry.get("role")) for entry in task.get("cross-depends", [])]
        tasks[task["id"]] = {
            "groups": task["groups"],
            "requires": task["requires"],
            "required_for": task["required_for"],
            "cross": cross,
        }
    return tasks


def on_nodes(tasks):
    """Returns, for each (node, task), the set of (node, task) that come before it."""

    def runs(name, node):
        groups = tasks[name]["groups"]
        return groups is None or any(matches(group, role) for group in groups for role in ROLES[node])

    places = [(node, name) for node in ROLES for name in tasks if runs(name, node)]
    before = {place: set() for place in places}
    for node, name in places:
        task = tasks[name]
        before[node, name] |= {(node, other) for other in task["requires"] if (node, other) in before}
        for other in task["required_for"]:
            if (node, other) in before:
                before[node, other].add((node, name))
        for pattern, roles in task["cross"]:
            for other_node, other in places:
                of_role = roles is None or any(matches(role, own) for role in roles for own in ROLES[other_node])
                if of_role and matches(pattern, other):
                    before[node, name].add((other_node, other))
    return before


def order(before):
    """Returns the places in an order that can be run; raises ValueError with a circle, if there is one."""
    done, path, found = set(), [], []

    def visit(place):
        if place in path:
            circle = path[path.index(place) :] + [place]
            raise ValueError("circle: " + " <- ".join("%s on %s" % (name, node) for node, name in circle))
        if place in done:
            return
        path.append(place)
        for other in sorted(before[place]):
            visit(other)
        path.pop()
        done.add(place)
        found.append(place)

    for place in sorted(before):
        visit(place)
    return found


def all_before(before, place):
    """Returns everything that has to be done before a place."""
    found, rest = set(), [place]
    while rest:
        for other in before[rest.pop()]:
            if other not in found:
                found.add(other)
                rest.append(other)
    return found
