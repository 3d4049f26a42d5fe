"""Every error that asic3d raises on purpose, and every warning.

::

    Asic3dError                 anything below; the command line prints it as one sentence and exits with 1
    ├── CollectionError         the photos or masks: missing, unreadable, too few
    ├── BackboneError           the network: unknown name, weights missing or wrong
    ├── ConfigError             a setting that does not exist or is out of its range
    ├── AlignmentError          the fit: nothing to match, diverged
    ├── MemoryLimitError        what would take more memory than max_memory allows
    ├── EditError               an edit that is to be propagated: unreadable, without transparency, of another shape
    ├── ExportError             keypoints, matches or photos that can't be handed to another program
    ├── StorageError            run folders and files: exist already, damaged, not writable, of a newer version
    ├── MissingExtraError       an optional package that is not installed, or can't be imported
    └── PluginError             a package that adds a backbone or an exporter, and does not work

    Asic3dWarning               anything below; the command line shows its sentence, a batch keeps it in batch.json
    ├── CollectionWarning       photos that are left out, gone or odd
    ├── BackboneWarning         another network than the one that was hoped for
    ├── StorageWarning          files in a run folder that are another run's
    ├── CheckpointWarning       an interrupted run that begins anew
    └── EditWarning             an edit that was changed before it was propagated

A message names the photo or file, says what was found and what is needed, and ends with what to do next. It is one
line, whatever a file is called: letters that would break it, or steer a terminal, are spelled out.
"""


class _OneLine(Exception):
    def __str__(self) -> str:
        letters = super().__str__()
        if letters.isprintable():
            return letters
        return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in letters)


class Asic3dError(_OneLine):
    """Base of all errors that asic3d raises on purpose."""


class CollectionError(Asic3dError):
    """The photos or masks can't be used."""


class BackboneError(Asic3dError):
    """The feature backbone is unknown, or its weights are missing or wrong."""


class ConfigError(Asic3dError):
    """A setting does not exist or is out of its range."""


class AlignmentError(Asic3dError):
    """The photos can't be aligned."""


class MemoryLimitError(Asic3dError):
    """The photos would take more memory than ``max_memory`` allows."""


class EditError(Asic3dError):
    """What was painted on a photo can't be painted on the others."""


class ExportError(Asic3dError):
    """Keypoints, matches or photos can't be handed to another program."""


class StorageError(Asic3dError):
    """A run folder or one of its files can't be read or written."""


class MissingExtraError(Asic3dError):
    """An optional package is needed and not installed, or can't be imported."""


class PluginError(Asic3dError):
    """What another package adds to asic3d does not work."""


class Asic3dWarning(_OneLine, UserWarning):
    """Base of all warnings of asic3d: what people should be told."""


class CollectionWarning(Asic3dWarning):
    """Something about the photos that the user should know but that does not stop the run."""


class BackboneWarning(Asic3dWarning):
    """The backbone that runs is not the one that was hoped for."""


class StorageWarning(Asic3dWarning):
    """Files in a run folder belong to another run than the one that is there now."""


class CheckpointWarning(Asic3dWarning):
    """An interrupted run can't be gone on with; it begins anew.

    Attributes:
        reason: why not, in sentences.
    """

    def __init__(self, work: str, reason: str) -> None:
        super().__init__(f"{work} begins anew, because its checkpoint can't be used: {reason}")
        self.reason = reason


class EditWarning(Asic3dWarning):
    """An edit was changed before it was propagated."""
