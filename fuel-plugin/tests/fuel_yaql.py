"""Conditions of tasks in Fuel 9.x: yaql, and Fuel's two functions about what has changed.

`$` is what the node is to be. changed(x) holds x of it against x of the last deployment in which the task succeeded on
that node; added(x) tells which elements of the list x were not there then. What cannot be worked out of the old state
counts as changed, and as empty.
"""

import collections.abc  # noqa: F401  (yaql forgets to)

import yaql
from yaql.language import specs, utils, yaqltypes

ENGINE = yaql.YaqlFactory().create()
NOTHING = object()


def evaluate(text, old, new):
    context = yaql.create_context()

    def plain(value):
        return utils.convert_output_data(value, lambda items: items, ENGINE)

    def both(expression):
        try:
            before = plain(expression(old))
        except Exception:  # Fuel's own makes no difference between errors either
            before = NOTHING
        return before, plain(expression(new))

    @specs.parameter("expression", yaqltypes.Lambda())
    def changed(expression):
        before, now = both(expression)
        return before != now

    @specs.parameter("expression", yaqltypes.Lambda())
    def added(expression):
        before, now = both(expression)
        return [element for element in now if before is NOTHING or element not in before]

    context.register_function(changed)
    context.register_function(added)
    return ENGINE(text).evaluate(data=new, context=context)
