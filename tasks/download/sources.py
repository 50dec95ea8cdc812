"""Where the native files of every task are to be had: the table behind `medbench data download`.

A dataset is fetched only where its licence allows that. Three kinds of source:

- `HubSource`: files of one commit of a dataset repository on the Hugging Face Hub, in the native layout.
- `WebSource`: files at fixed addresses elsewhere, each with its checksum.
- `ManualSource`: steps for the user, where an agreement or somebody else's rights are in the way.

The commits of BoKelvin/SLAKE and bigbio/med_qa are those of the Hub's own page of that commit, read in a stored
copy: 8 and 16 commits long, with the file named here. Of OpenGVLab/SA-Med2D-20M only the first digits of the
newest commit were found (6bd8043), so none is pinned. The files of PubMedQA were measured at the commit of its
GitHub repository that is named here; the MD5 sums of MedMNIST are those of medmnist 3.0.2. PubMedQA and
MedMNIST are not taken from the Hub because no repository there holds the files that the readers know: its
PubMedQA is split in folds or parquet, its MedMNIST has 28 pixels or is parquet.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from medbench.tasks.spec import TaskSpec

_PUBMEDQA_COMMIT = "1cbae8e92f72f20c8d3747cbb3bf5bc53554d997"
_PUBMEDQA_URL = f"https://raw.githubusercontent.com/pubmedqa/pubmedqa/{_PUBMEDQA_COMMIT}/data"
_MEDMNIST_RECORD = "10519652"
_MEDMNIST_URL = f"https://zenodo.org/records/{_MEDMNIST_RECORD}/files"
_AUTHORS_DATA = "the Uni-Med authors' data (figshare article 27265386)"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """What all kinds declare.

    Attributes:
        family: Name of the folder below --source; tasks of one dataset share it.
        licence: As this source declares it; `licence_note` says why that is not the licence of the task's declaration.
        note: What to know about the data that comes from here, unless there is `note_unless` in the folder.
        steps: What the user has to do, one after the other.

    `{folder}` in `note` and `steps` is the family's folder.
    """

    family: str
    licence: str
    licence_note: str = ""
    note: str = ""
    note_unless: str = ""
    steps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSource(_Source):
    """Files of a dataset repository on the Hub, all of one commit.

    Attributes:
        repo: `owner/name`.
        revision: The commit, 40 hex digits; None where none is known. Then the newest one of `main` is looked
            up, shown and recorded.
        paths: Files in the repository, which become files in the folder.
        unpack: Archives among them, each with the beginnings of the names that are wanted of it; none means all.
        size: Bytes of all files, about, as the Hub shows them.
        instead: Names in the folder that stand for the files: where one of them is, nothing is fetched.
    """

    repo: str
    revision: str | None
    paths: tuple[str, ...]
    unpack: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    size: int
    instead: tuple[str, ...] = ()

    @property
    def home(self) -> str:
        """Whose files they are, for people and for `download.json`."""
        return self.repo


@dataclass(frozen=True, slots=True, kw_only=True)
class WebFile:
    """A file at a fixed address: its path in the folder, its bytes, and `md5:` or `sha256:` with the hex digits."""

    path: str
    url: str
    size: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSource(_Source):
    """Files at fixed addresses outside the Hub; `revision` is the commit or the record number that pins them."""

    home: str
    revision: str
    files: tuple[WebFile, ...]
    unpack: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    instead: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """The files in the folder."""
        return tuple(file.path for file in self.files)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class ManualSource(_Source):
    """A dataset that the user has to get; `reason` says why it is not fetched."""

    reason: str


Source = HubSource | WebSource | ManualSource

_MEDQA = HubSource(
    family="medqa",
    licence="unknown",
    licence_note="the card of this copy says 'unknown'; the dataset's own repository, jind11/MedQA, is MIT",
    repo="bigbio/med_qa",
    revision="ddef95d268cdad413693d634279a9a679d468469",
    paths=("data_clean.zip",),
    unpack={"data_clean.zip": ("data_clean/questions/US/",)},
    size=132_000_000,
)

_PUBMEDQA = WebSource(
    family="pubmedqa",
    licence="MIT",
    home="github.com/pubmedqa/pubmedqa",
    revision=_PUBMEDQA_COMMIT,
    files=tuple(
        WebFile(path=name, url=f"{_PUBMEDQA_URL}/{name}", size=size, digest=f"sha256:{sha256}")
        for name, size, sha256 in (
            ("ori_pqal.json", 2_584_787, "8b3276be8942ebbd77f3ddcda12c1749bf0e490045a736fd8438ee40cf37a41d"),
            ("test_ground_truth.json", 11_414, "939fe566f09017d13b1ca64d2ddfee0bc2374b366048152997669cccedc44d51"),
        )
    ),
)

_SLAKE = HubSource(
    family="slake",
    licence="CC BY 4.0",
    note=(
        "The split of the paper, train.txt and test.txt, is not on the Hub; it comes with "
        f"{_AUTHORS_DATA}. Put both files into {{folder}} before you prepare the task. Without them the split is "
        "medbench's own, and numbers on it are not comparable with the paper's."
    ),
    note_unless="train.txt",
    repo="BoKelvin/SLAKE",
    revision="a9083ce6c34ac3ffb17671a605962924d8a8f9e9",
    paths=("imgs.zip", "train.json", "validation.json", "test.json"),
    unpack={"imgs.zip": ()},
    size=216_000_000,
)

_SA_MED2D = HubSource(
    family="sa-med2d",
    licence="CC BY-NC-SA 4.0",
    licence_note="this is the licence of the collection; those of the datasets in it apply as well",
    note=(
        "The paper's own selection of images and boxes comes only with "
        f"{_AUTHORS_DATA}: images_small_train, images_small_test, regions_small_train and regions_small_test, which "
        "go into {folder}. From this release the draw is medbench's own, and numbers on it are not comparable with "
        "the paper's."
    ),
    note_unless="regions_small_train",
    repo="OpenGVLab/SA-Med2D-20M",
    revision=None,
    paths=(
        *(f"raw/SA-Med2D-16M.z{volume:02d}" for volume in range(1, 11)),
        "raw/SA-Med2D-16M.zip",
    ),
    size=10 * 32_212_254_720,
    instead=("SAMed2Dv1", "regions_small_train"),
    steps=(
        (
            "Join the volumes, which Python cannot read (this needs the same space once more): "
            "zip -s 0 {folder}/raw/SA-Med2D-16M.zip --out {folder}/joined.zip"
        ),
        "Unpack, which makes {folder}/SAMed2Dv1: unzip {folder}/joined.zip -d {folder}",
        "Remove {folder}/raw and {folder}/joined.zip, if you need the space.",
    ),
)

_MIMIC_CXR = ManualSource(
    family="mimic-cxr",
    licence="PhysioNet Credentialed Health Data License 1.5.0",
    reason="access needs training and an agreement that you sign yourself with PhysioNet",
    steps=(
        (
            "Register at https://physionet.org/register/ and ask to be credentialed at "
            "https://physionet.org/settings/credentialing/ (a person checks this; it takes days)."
        ),
        (
            "Do the training 'CITI Data or Specimens Only Research', see https://physionet.org/about/citi-course/, and "
            "hand in its report at https://physionet.org/settings/training/."
        ),
        (
            "Sign the data use agreement at the end of https://physionet.org/content/mimic-cxr-jpg/2.0.0/ (pictures) "
            "and of https://physionet.org/content/mimic-cxr/2.0.0/ (reports)."
        ),
        (
            "Get the pictures (hundreds of GB) and the split: wget -r -N -c -np --user NAME --ask-password "
            "https://physionet.org/files/mimic-cxr-jpg/2.0.0/ - its folder `files` goes to {folder}/files, "
            "mimic-cxr-2.0.0-split.csv.gz goes to {folder}."
        ),
        (
            "Get the reports: wget -N -c --user NAME --ask-password "
            "https://physionet.org/files/mimic-cxr/2.0.0/mimic-cxr-reports.zip - unpack it so that its folder `files` "
            "is {folder}/mimic-cxr-reports/files."
        ),
        (
            "For the selection of the paper, instead of the reports: annotation.json, made by R2Gen's authors (section "
            "Datasets of https://github.com/cuhksz-nlp/R2Gen; access is restricted, ask them), and "
            f"annotation_small.json, which names the 9997 training rows, of {_AUTHORS_DATA}. Put both into {{folder}}."
        ),
        "Nothing of it may leave your machine; that includes sending it to a hosted model.",
    ),
)

_MPX = ManualSource(
    family="mpx-single",
    licence="none stated; rights with the MedPix contributors",
    reason="nobody states a licence for these pictures and texts, so medbench does not fetch them",
    steps=(
        "Find out whether your use is permitted: the rights lie with the contributors of https://medpix.nlm.nih.gov.",
        (
            "Get MedPix_single_train.csv and MedPix_single_test.csv, RadFM's lists, from "
            "https://huggingface.co/datasets/chaoyi-wu/RadFM_data_csv, and no other file of it: some hold texts of "
            "MIMIC-CXR. Put both into {folder}."
        ),
        (
            "Get the pictures that their column `name` names, from MedPix or from RadFM's authors "
            "(https://huggingface.co/datasets/chaoyi-wu/MedPix-Images), and put them into {folder}/images."
        ),
    ),
)

_PATH_VQA = ManualSource(
    family="path-vqa",
    licence="MIT (texts); pictures belong to their publishers and PEIR",
    reason="the questions are free, but the pictures belong to the publishers of the textbooks and to PEIR",
    steps=(
        "Find out whether your use of the pictures is permitted.",
        (
            "Open the Google Drive folder that data/README.md of https://github.com/UCSD-AI4H/PathVQA links, and "
            "download the dataset."
        ),
        (
            "Unpack it so that these are there: {folder}/pvqa/qas/train_vqa.pkl, {folder}/pvqa/qas/test_vqa.pkl, "
            "{folder}/pvqa/images/train and {folder}/pvqa/images/test. Copies in parquet form are not read."
        ),
    ),
)


def _medmnist(flag: str, licence: str, size: int, md5: str) -> WebSource:
    name = f"{flag}_224.npz"
    file = WebFile(path=name, url=f"{_MEDMNIST_URL}/{name}?download=1", size=size, digest=f"md5:{md5}")
    home = f"zenodo.org/records/{_MEDMNIST_RECORD}"
    return WebSource(family=flag, licence=licence, home=home, revision=_MEDMNIST_RECORD, files=(file,))


SOURCES: Mapping[str, Source] = {
    "medqa": _MEDQA,
    "pubmedqa": _PUBMEDQA,
    "slake-vqa": _SLAKE,
    "path-vqa": _PATH_VQA,
    "slake-rec": _SLAKE,
    "sa-med2d-rec": _SA_MED2D,
    "slake-reg": _SLAKE,
    "sa-med2d-reg": _SA_MED2D,
    "mimic-cxr": _MIMIC_CXR,
    "mpx-single": _MPX,
    "dermamnist": _medmnist("dermamnist", "CC BY-NC 4.0", 1_091_112_502, "8974907d8e169bef5f5b96bc506ae45d"),
    "organsmnist": _medmnist("organsmnist", "CC BY 4.0", 802_713_625, "b354719e553fbbb2513d5533f52a4cb1"),
}
"""Task name to source; exactly one for each of the 12 built-in tasks."""


def source_of(spec: TaskSpec) -> Source:
    """Return where the native files of a task are to be had; a variant's are those of its task."""
    return (
        SOURCES.get(spec.name)
        or SOURCES.get(spec.variant_of)
        or ManualSource(
            family=spec.name,
            licence=spec.licence,
            reason="medbench knows no place to fetch it from",
            steps=(f"Get it from where its authors say: {spec.source}.", f"Put it into {{folder}}: {spec.layout}"),
        )
    )
