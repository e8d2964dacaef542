"""The result files that wait to be fetched. The oldest are released early where there are too many."""

import logging
from collections import OrderedDict
from pathlib import Path

log = logging.getLogger("velocity")


class Results:
    """Result files by job. All keys together may have `most_bytes` on the disk, each of them `share`."""

    def __init__(self, folder: Path, most_bytes: int, share: int) -> None:
        self.folder, self.most_bytes, self.share = folder, most_bytes, share
        self._kept: OrderedDict[str, tuple[str, int]] = OrderedDict()  # job id -> owner, bytes; oldest first

    def path(self, job_id: str) -> Path:
        """Return where the job's result is, or will be."""
        return self.folder / f"{job_id}.bin"

    def is_there(self, job_id: str) -> bool:
        """Whether the job's result can be fetched."""
        return self.path(job_id).is_file()

    def add(self, job_id: str, owner: str) -> list[str]:
        """Count a result that has been written; return the ids of older jobs whose results are to be removed."""
        try:
            self._kept[job_id] = owner, self.path(job_id).stat().st_size
        except FileNotFoundError:
            return []
        return self._take_oldest(self.share, owner) + self._take_oldest(self.most_bytes)

    def remove(self, job_id: str) -> None:
        """Delete the job's result, if it has one."""
        self._kept.pop(job_id, None)
        try:
            self.path(job_id).unlink(missing_ok=True)
        except OSError as error:  # Windows: someone is still downloading it; the next expiry tries again
            log.warning("the result of job %s could not be deleted: %s", job_id, error)

    def _take_oldest(self, most: int, owner: str | None = None) -> list[str]:
        """Take out the oldest results, of one owner or of all, until the rest has no more bytes; never the newest."""
        sizes = [(job_id, size) for job_id, (other, size) in self._kept.items() if owner in (None, other)]
        excess, taken = sum(size for _, size in sizes) - most, []
        for job_id, size in sizes[:-1]:
            if excess > 0:
                excess -= size
                taken.append(job_id)
                del self._kept[job_id]
        return taken
