"""Where data sets, tables and the weights of FID come from: addresses, sizes and checksums, in one table.

A checksum is given where the publisher, or several independent users of the file, name it. Where there is
none, the size is all that can be checked, and the address names the commit that the file is of.
"""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Source:
    """A file on the web, and what the data folder holds when it is in place.

    `place` is the file itself, or the folder that is all of an archive. `checksum` is `md5:...` or
    `sha256:...`; without one, `size_bytes` must be known.
    """

    about: str
    url: str
    place: str
    checksum: str = ""
    size_bytes: int | None = None

    @property
    def file(self) -> str:
        """The name under which the file is published."""
        return Path(urlsplit(self.url).path).name

    @property
    def packed(self) -> bool:
        return self.file.endswith((".tar.gz", ".tgz"))


GENIUS = "https://raw.githubusercontent.com/mingkai-zheng/GENIUS/969d4f9e23d4bf15640c97e82cea610edc103eba"

SOURCES: dict[str, Source] = {
    "cifar10": Source(
        about="CIFAR-10, binary version",
        url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        place="cifar-10-batches-bin",
        checksum="sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        size_bytes=170_052_171,
    ),
    "cifar100": Source(
        about="CIFAR-100, binary version",
        url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        place="cifar-100-binary",
        checksum="sha256:58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        size_bytes=168_513_733,
    ),
    "imagenette64": Source(
        about="Imagenette, 160 pixels",
        url="https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz",
        place="imagenette2-160",
        checksum="md5:e793b78cc4c9e9a4ccc0c1155377a412",
    ),
    "nasbench-macro": Source(
        about="NAS-Bench-Macro on CIFAR-10, as GENIUS has it",
        url=f"{GENIUS}/benchmark/nas-bench-macro_cifar10.json",
        place="nas-bench-macro_cifar10.json",
        size_bytes=1_178_821,
    ),
    "channel-resnet": Source(
        about="Channel-Bench-Macro, ResNet, on CIFAR-10",
        url=f"{GENIUS}/benchmark/Results_ResNet.json",
        place="Results_ResNet.json",
        size_bytes=2_821_965,
    ),
    "channel-mobilenet": Source(
        about="Channel-Bench-Macro, MobileNet, on CIFAR-10",
        url=f"{GENIUS}/benchmark/Results_MobileNet.json",
        place="Results_MobileNet.json",
        size_bytes=2_793_867,
    ),
    "inception": Source(
        about="Inception-v3's published weights: FID as papers give it",
        url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        place="pt_inception-2015-12-05-6726825d.pth",
        checksum="sha256:6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        size_bytes=95_628_359,
    ),
}
