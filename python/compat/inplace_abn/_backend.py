"""The original's compiled part. Here it can be imported and is empty: the operators are torch.ops.iabn."""


def __getattr__(name: str):
    if name.startswith("__"):
        raise AttributeError(name)
    raise AttributeError(
        f"inplace_abn._backend has no {name}: this inplace_abn is iabn's, whose operators are torch.ops.iabn; call "
        "inplace_abn.functions.inplace_abn instead"
    )
