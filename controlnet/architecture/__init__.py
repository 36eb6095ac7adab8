"""The network: a locked U-Net, a trainable copy of its first half, zero convolutions between them.

Reading order: `control` (zero convolutions, hint block, the copy), `unet` (what it says to the
decoder, and how the locked U-Net is walked), `sampling`; and real models from disk: `backbone`,
`control_files`, `model_folder`.

Shape letters: B batch, C channels, H W height and width of that tensor, L tokens of a prompt,
D width of a token, E width of the time embedding, P width of a pooled prompt.
"""
