"""Small annotators that have learned the drawn world, in the file formats of the released ones.

`python -m controlnet.nano.eyes depth --output FOLDER` trains one of them; `accuracy` says how often
it is right. What comes out lies in `annotators/nano`, where `--weights nano` finds it.
"""
