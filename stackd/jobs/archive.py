"""With set.after = "archive": finished frames move out of the inbox, and in time their empty folders go.

Takes the settings and the ledger, which remembers what is still to be moved. Never overwrites, deletes no file.
"""

import os
import time
from collections.abc import Callable, Iterable

from loguru import logger

from stackd.disk import outbox
from stackd.disk.ledger import Ledger
from stackd.jobs.grouping import folder_name
from stackd.settings import FolderSettings, Settings


def move_next(folders: FolderSettings, ledger: Ledger, on_step: Callable[[], None]) -> bool:
    """Move the frames of one finished set to archive/<set>/; whether others are left. Raises OSError or OutputError.

    A set with a frame that changed since is open again, and its frames belong to the set that comes of it.
    """
    waiting = ledger.to_archive(2)
    for entry in waiting[:1]:
        frames = ledger.frames(entry.identity)
        if changed := outbox.changed_frames(folders.inbox, frames):
            left = [f"{', '.join(changed)} changed since"]
        else:
            folder = entry.folder or entry.name
            left = outbox.archive_frames(folders.inbox, folders.archive, folder, frames, on_step)
        for why in left:
            logger.warning("{}: not archived: {}", entry.name, why)
        ledger.archived(entry.identity)
    return len(waiting) > 1


def tidy(settings: Settings, empty_folders: Iterable[str]) -> None:
    """Remove set folders that archiving emptied and that nobody has added to for set.partial_after_s.

    Not at once: the program that captures may hold the folder for its next frame, which would be lost.
    """
    folders, oldest_s = settings.folders, time.time() - settings.set.partial_after_s
    for name in empty_folders:
        archived = os.path.lexists(folders.archive / folder_name(name))
        if archived and outbox.remove_empty(folders.inbox / name, oldest_s):
            logger.info("{}: its frames are in the archive; the empty folder is removed", name)
