"""What all networks of ``transformers`` share: a folder to check, and a reason not to load."""

from __future__ import annotations

from pathlib import Path

from wsseg.errors import MissingWeightsError

PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")


def check_network_folder(name: str) -> None:
    """Refuse a folder that holds no network, and a path that does not exist.

    Args:
        name: A folder, or the name of a network on the hub, which is not looked up.

    Raises:
        MissingWeightsError: Saying which file is missing.

    Example:
        >>> check_network_folder("facebook/sam-vit-base")
    """
    path = Path(name).expanduser()
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    if path.is_dir():
        missing = [] if (path / "config.json").is_file() else ["config.json"]
        if not any((path / file).is_file() for file in PROCESSOR_FILES):
            missing.append(" or ".join(PROCESSOR_FILES))
        if missing:
            raise MissingWeightsError(
                f"The folder {name} is no network of transformers: it has no "
                f"{' and no '.join(missing)}. Save network and processor into it with "
                "save_pretrained, or name a network on the hub."
            )
    elif looks_like_path or path.exists():
        raise MissingWeightsError(
            f"{name} is no folder. Give the folder of a network that save_pretrained wrote, or the "
            "name of one on the Hugging Face hub."
        )


def cannot_load(name: str, error: Exception, remedy: str) -> MissingWeightsError:
    """Say that a network cannot be loaded, with the first line of the reason.

    Args:
        name: Folder or name of the network.
        error: What went wrong.
        remedy: Sentences that say what to do.

    Returns:
        The error to raise.
    """
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return MissingWeightsError(f"The network {name} cannot be loaded ({reason}). {remedy}")
