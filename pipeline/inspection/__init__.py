"""What is wrong with a data set, before anyone trains on it: `controlset inspect`."""

from pipeline.inspection.inspect import inspect_dataset
from pipeline.inspection.records import Flag, Inspection
from pipeline.inspection.report import print_inspection, render_inspection

__all__ = ["Flag", "Inspection", "inspect_dataset", "print_inspection", "render_inspection"]
