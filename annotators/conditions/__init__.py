"""One file, or folder, a condition: its spec and how it looks at images. Being here is enough.

`annotators.registry` takes every class with a `hint_mode` for a spec.
"""
