"""What takes time and proves nothing in a test is done once, or left out.

The tests make hundreds of data sets of a few pictures and dozens of runs of a few steps. Most of
such a set's time goes where Beam looks at our graph again and again; a fifth of the others' waits
for the disk. What is built, and what is written, is the same.
"""

import copy
import dataclasses
import functools
import inspect
import os
import sys
import typing
import weakref

import jaxtyping
from apache_beam.options import pipeline_options
from apache_beam.runners.worker import statecache
from apache_beam.transforms import core, userstate
from jaxtyping import _storage as shapes

_view_anew = pipeline_options.PipelineOptions.view_as
_inspect_anew = core.get_function_args_defaults
_state_anew = userstate.get_dofn_specs
_check_slowly = jaxtyping.jaxtyped

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
    jaxtyping.jaxtyped = _checked


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


def _checked(function=None, *, typechecker=None):
    """What `--jaxtyping-packages` asks for, with every check of a call made once.

    jaxtyping's own decorator checks arguments twice, before and after a call, and binds them for
    its messages: half the time of drawing a scene, most of it where no array is named.
    """
    if function is None:
        return functools.partial(_checked, typechecker=typechecker)
    if isinstance(function, type):
        if dataclasses.is_dataclass(function) and "__init__" in vars(function):
            function.__init__ = _checked(function.__init__, typechecker=typechecker)
        return function
    if not inspect.isfunction(function) or inspect.isgeneratorfunction(function):
        return _check_slowly(function, typechecker=typechecker)
    checked = typechecker(function)
    if not any(map(_is_of_arrays, function.__annotations__.values())):
        return checked

    @functools.wraps(function)
    def with_sizes(*arguments, **options):
        shapes.push_shape_memo({})  # where sizes are kept that arguments and result have to share
        try:
            return checked(*arguments, **options)
        finally:
            shapes.pop_shape_memo()

    return with_sizes


def _is_of_arrays(hint):
    """Whether a type tells shapes anywhere, or may do so."""
    if isinstance(hint, list | tuple):  # the arguments of a callable
        return any(map(_is_of_arrays, hint))
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return isinstance(hint, str) or any(map(_is_of_arrays, typing.get_args(hint)))
