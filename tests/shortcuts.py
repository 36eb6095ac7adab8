"""What takes time and proves nothing in a test is done once, or left out.

The tests make hundreds of data sets of a few pictures and dozens of runs of a few steps. Most of
such a set's time goes where Beam looks at our graph again and again; a fifth of the others' waits
for the disk. What is built, and what is written, is the same.
"""

import copy
import functools
import inspect
import os
import sys
import weakref

from apache_beam.options import pipeline_options
from apache_beam.runners.worker import statecache
from apache_beam.transforms import core, userstate
from beartype import BeartypeConf
from beartype.claw import beartype_packages

_view_anew = pipeline_options.PipelineOptions.view_as
_inspect_anew = core.get_function_args_defaults
_state_anew = userstate.get_dofn_specs

CHECKED = ("schemas.dataset", "schemas.latents", "schemas.pixels", "annotators", "controlnet")
"""Modules and packages whose functions check the types and shapes that they are called with."""

_parsed = {}
_arguments = weakref.WeakKeyDictionary()
_states = weakref.WeakKeyDictionary()


def take():
    """Take them all in this process, before anything is made."""
    os.fsync = lambda descriptor: None  # no test cuts the power
    pipeline_options.PipelineOptions.view_as = _view_as
    core.get_function_args_defaults = _arguments_of
    userstate.get_dofn_specs = _state_of
    # Only for what its cache throws away when full: it walks through all modules that there are.
    statecache.get_deep_size = lambda *objects: 64


def check_types():
    """Have them check; before any of them is imported.

    Letters that stand for equal sides of several arrays are held by jaxtyping (pyproject.toml),
    which costs more a call (DECISIONS): in the few modules that have such.
    """
    beartype_packages(CHECKED, conf=BeartypeConf(claw_is_pep526=False))


def remember_entry_points():
    """Look only once which packages announce annotators; imports these, so after pytest's hooks."""
    from annotators import registry

    look = registry.entry_points

    @functools.cache
    def found(places, group):
        return look(group=group)

    registry.entry_points = lambda *, group: found(tuple(sys.path), group)


def _view_as(options, kind):
    """Beam asks 500 times while it builds one graph of ours, and parses them anew each time."""
    if options._flags is None:
        return _view_anew(options, kind)
    known = (kind, tuple(options._flags))
    if known not in _parsed:
        _parsed[known] = kind(list(options._flags))._visible_options
    view = kind.__new__(kind)
    for name, value in vars(_parsed[known]).items():
        if name not in options._all_options:
            options._all_options[name] = copy.deepcopy(value)
    view._flags, view._visible_options = options._flags, _parsed[known]
    view._all_options = options._all_options
    return view


def _arguments_of(function):
    """Beam looks at the arguments of the same methods 10,000 times for one graph."""
    if not inspect.ismethod(function):
        return _inspect_anew(function)
    if function.__func__ not in _arguments:
        _arguments[function.__func__] = _inspect_anew(function)
    names, defaults = _arguments[function.__func__]
    return [*names], [*defaults]


def _state_of(step):
    """Beam looks 340 times whether a step keeps state: its class says that."""
    kind = type(step)
    if kind not in _states:
        _states[kind] = _state_anew(step)
    states, timers = _states[kind]
    return {*states}, {*timers}
