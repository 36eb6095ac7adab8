"""What holds for every test."""

import copy
import inspect
import signal
import threading
import weakref

from apache_beam.options import pipeline_options
from apache_beam.transforms import core

# A job in the background (`make test &`, nohup) ignores Ctrl-C, and so would every command that a
# test starts: those that are interrupted on purpose would never end.
if (
    threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Beam looks at its options 500 times while it builds one graph of ours and parses them anew each
# time; and at the arguments of the same methods 10,000 times. Remembered, a run on a few pictures
# takes half its time, and the tests make hundreds. What is built is the same.
_parsed = {}


def _view_as(options, kind):
    if options._flags is None:
        return _look_anew(options, kind)
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


_look_anew = pipeline_options.PipelineOptions.view_as
pipeline_options.PipelineOptions.view_as = _view_as


def _arguments_of(function):
    if not inspect.ismethod(function):
        return _inspect_anew(function)
    if function.__func__ not in _arguments:
        _arguments[function.__func__] = _inspect_anew(function)
    names, defaults = _arguments[function.__func__]
    return [*names], [*defaults]


_arguments = weakref.WeakKeyDictionary()
_inspect_anew = core.get_function_args_defaults
core.get_function_args_defaults = _arguments_of
