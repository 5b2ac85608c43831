"""Which model version serves: the one that the settings ask for or, while that one is refused, an older one.

Remembers what workers said of the versions that they were given; opens no model itself.
"""

from pathlib import Path

from loguru import logger

from stackd.disk import models
from stackd.errors import ModelError
from stackd.settings import Settings


class ServingModel:
    """`trouble` tells people that an older version serves; `instead`: folder of the one asked for -> of that one."""

    def __init__(self) -> None:
        self.trouble = ""
        self.instead: dict[str, str] = {}
        self._bad: dict[str, tuple[object, str]] = {}  # folder -> (its files then, why it was refused)
        self._good = ""

    def choose(self, settings: Settings) -> str:
        """Folder of the model version to use now, "" for the plain stack alone.

        A version that cannot be used is passed over for the last one that served, or else was current before: until
        its files change. Raises ModelError where there is no other.
        """
        self.trouble, known, self.instead = "", self.trouble, {}
        if not settings.restore.uses_network:
            return ""
        try:
            folder = str(models.resolve(settings.folders.models, settings.restore.model).path)
            reason = self._refusal(folder)
        except ModelError as error:
            folder, reason = "", str(error)
        if not reason:
            return folder
        old = self.older(settings)
        if not old:
            raise ModelError(reason)
        self.instead = {folder: old}
        self.trouble = f"the model is refused and {old} serves instead: {reason}"
        if self.trouble != known:
            logger.error("{}", self.trouble)
        return old

    def served(self, folder: str) -> None:
        """A set was restored with this version ("": with none)."""
        self._good = folder or self._good

    def refused(self, folder: str, reason: str) -> None:
        """A worker could not use this version as its files are now."""
        self._bad[folder] = models.files_seen(Path(folder)), reason

    def older(self, settings: Settings) -> str:
        """Folder of the version to go on with when the one asked for is refused; "" if there is none."""
        before = models.earlier(settings.folders.models, settings.restore.model)
        folders = (self._good, *(str(version.path) for version in before))
        return next((folder for folder in folders if folder and not self._refusal(folder)), "")

    def forget_refusals(self) -> None:
        """Try refused versions again: somebody may have mended them."""
        self._bad.clear()

    def _refusal(self, folder: str) -> str:
        """Why a worker refused this version; "" if none did, or if its files changed since."""
        seen, reason = self._bad.get(folder, (None, ""))
        return reason if reason and seen == models.files_seen(Path(folder)) else ""


def usable_model(settings: Settings) -> tuple[str, str]:
    """(folder, "name version") of the model in use, or ("", why there is none). For people."""
    if not settings.restore.uses_network:
        return "", f"none: restore.{'strength = 0' if settings.restore.network else 'network = false'}"
    try:
        version = models.resolve(settings.folders.models, settings.restore.model)
    except ModelError as error:
        return "", str(error)
    return str(version.path), f"{version.name} {version.version}"
