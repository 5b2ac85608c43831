"""With set.after = "archive": finished frames move out of the inbox, and in time their empty folders go.

Takes the settings and the ledger, which remembers what is still to be moved. Never overwrites, deletes no file.
"""

import os
import time
from collections.abc import Iterable

from loguru import logger

from stackd.disk import outbox
from stackd.disk.ledger import Ledger
from stackd.jobs.grouping import folder_name
from stackd.settings import FolderSettings, Settings


def move_finished(folders: FolderSettings, ledger: Ledger) -> None:
    """Move the frames of finished sets to archive/<set>/. Raises OSError or OutputError."""
    for entry in ledger.to_archive():
        frames = ledger.frames(entry.identity)
        for left in outbox.archive_frames(folders.inbox, folders.archive, entry.folder or entry.name, frames):
            logger.warning("{}: not archived: {}", entry.name, left)
        ledger.archived(entry.identity)


def tidy(settings: Settings, empty_folders: Iterable[str]) -> None:
    """Remove set folders that archiving emptied and that nobody has added to for set.partial_after_s.

    Not at once: the program that captures may hold the folder for its next frame, which would be lost.
    """
    folders, oldest_s = settings.folders, time.time() - settings.set.partial_after_s
    for name in empty_folders:
        archived = os.path.lexists(folders.archive / folder_name(name))
        if archived and outbox.remove_empty(folders.inbox / name, oldest_s):
            logger.info("{}: its frames are in the archive; the empty folder is removed", name)
