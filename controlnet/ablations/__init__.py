"""The paper's ablations as recipes on the nano base: what each part of the construction is for."""
