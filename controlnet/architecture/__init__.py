"""The network: a locked U-Net, a trainable copy of its first half, zero convolutions between them.

Reading order: `zero_conv`, `hint`, `unet` (how a U-Net is walked), `control` (the copy),
`residuals` (what it says to the decoder), `backbone` (real models from disk), `prompts`,
`sampling`.

Shape letters: B batch, C channels, H W height and width of that tensor, L tokens of a prompt,
D width of a token, E width of the time embedding, P width of a pooled prompt.
"""
