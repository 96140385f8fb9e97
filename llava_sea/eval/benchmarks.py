"""The eight benchmarks as LLaVA runs them: files, prompts, where each is scored.

Layout, prompts and lengths are those of LLaVA's scripts/v1_5/eval and docs/Evaluation.md
(haotian-liu/LLaVA c121f04); its eval.zip holds the question files. For a split whose answers are
not public a file for its server is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_sea.errors import UserError
from llava_sea.eval import submissions
from llava_sea.eval.answers import Answer
from llava_sea.eval.judge import Judge
from llava_sea.eval.score import Outcome, Submission
from llava_sea.eval.scorers import mmbench, mmvet, pope, scienceqa, vqa

ZIP = (
    "question files: LLaVA's eval.zip (docs/Evaluation.md, "
    "https://drive.google.com/file/d/1atZSBBrAX54yYpxtVVW33zFvcnaHeFPy)"
)
VQA_SERVER = "https://eval.ai/web/challenges/challenge-page/830"
VIZWIZ_SERVER = "https://eval.ai/web/challenges/challenge-page/2185"
MMBENCH_SERVER = "https://mmbench.opencompass.org.cn/mmbench-submission"


@dataclass(frozen=True)
class Answered:
    """A task's answers and files; `folder` gets those that scoring or a submission makes."""

    answers: Sequence[Answer]
    questions: Path
    needs: tuple[Path, ...]
    folder: Path
    judge: Judge | None


@dataclass(frozen=True)
class Task:
    """A benchmark on one of its splits; paths are below LLaVA's ``playground/data/eval``.

    Attributes:
        benchmark: its key, e.g. "vqav2".
        title: its name, e.g. "VQAv2".
        split: the part that is asked.
        questions: the question file.
        images: the folder of its images; None where the question file holds them.
        needs: other files that scoring or the submission reads.
        source: where to get them.
        score: scores the answers or writes the submission.
        max_new_tokens: longest answer, LLaVA's.
        ask_letter: whether LLaVA's request for an option's letter is added.
        default: whether it is run when no task is named.
    """

    benchmark: str
    title: str
    split: str
    questions: str
    images: str | None
    needs: tuple[str, ...]
    source: str
    score: Callable[[Answered], Outcome]
    max_new_tokens: int = 128
    ask_letter: bool = False
    default: bool = True

    @property
    def name(self) -> str:
        """The name in files and flags, e.g. "vqav2-test-dev2015"."""
        return f"{self.benchmark}-{self.split}"

    def missing(self, data: Path) -> list[Path]:
        """Return its files that are not there."""
        wanted = [self.questions, *self.needs, *([self.images] if self.images else [])]
        return [data / name for name in wanted if not (data / name).exists()]

    def finish(
        self, data: Path, answers: Sequence[Answer], folder: Path, judge: Judge | None = None
    ) -> Outcome:
        """Score answers or write their submission; files that are made go into `folder`."""
        needs = tuple(data / name for name in self.needs)
        return self.score(Answered(answers, data / self.questions, needs, folder, judge))


def _vqav2_test(run: Answered) -> Outcome:
    path = run.folder / "vqav2_test-dev2015.json"
    submissions.write_vqav2(run.answers, run.needs[0], path)
    return Submission(path, VQA_SERVER)


def _gqa(run: Answered) -> Outcome:
    score = vqa.score_gqa(run.answers, run.needs[0])
    if not score.missing:  # for the official eval.py
        submissions.write_gqa(run.answers, run.questions, run.folder / submissions.GQA_FILE)
    return score


def _vizwiz_test(run: Answered) -> Outcome:
    path = run.folder / "vizwiz_test.json"
    submissions.write_vizwiz(run.answers, run.questions, path)
    return Submission(path, VIZWIZ_SERVER)


def _mmbench_dev(run: Answered) -> Outcome:
    path = run.folder / "mmbench_dev_20230712.xlsx"
    submissions.write_mmbench(run.answers, run.questions, path, allow_missing=True)
    return mmbench.score(run.answers, run.questions)


def _mmbench_test(run: Answered) -> Outcome:
    path = run.folder / "mmbench_test_20230712.xlsx"
    submissions.write_mmbench(run.answers, run.questions, path)
    return Submission(path, MMBENCH_SERVER)


def _mmvet(run: Answered) -> Outcome:
    results = run.folder / "mm-vet.json"
    mmvet.write_results(run.answers, results)
    if run.judge is None:
        return Submission(results, "a judge: --judge_url and --judge_model, or MM-Vet's notebook")
    cache = run.folder / "mm-vet-grades.jsonl"
    return mmvet.score(run.answers, run.needs[0], run.judge, cache=cache)


TASKS = (
    Task(
        "vqav2",
        "VQAv2",
        "test-dev2015",
        "vqav2/llava_vqav2_mscoco_test-dev2015.jsonl",
        "vqav2/test2015",
        ("vqav2/llava_vqav2_mscoco_test2015.jsonl",),
        f"{ZIP}; images: http://images.cocodataset.org/zips/test2015.zip",
        _vqav2_test,
    ),
    Task(
        "vqav2",
        "VQAv2",
        "val2014",
        "vqav2/llava_vqav2_mscoco_val2014.jsonl",
        "vqav2/val2014",
        ("vqav2/v2_mscoco_val2014_annotations.json",),
        "https://visualqa.org/download.html (validation: questions, annotations, images); write "
        "the questions as LLaVA's jsonl",
        lambda run: vqa.score_vqav2(run.answers, run.needs[0]),
    ),
    Task(
        "gqa",
        "GQA",
        "testdev_balanced",
        "gqa/llava_gqa_testdev_balanced.jsonl",
        "gqa/data/images",
        ("gqa/data/testdev_balanced_questions.json",),
        f"{ZIP}; questions1.2.zip and images.zip: https://cs.stanford.edu/people/dorarad/gqa",
        _gqa,
    ),
    Task(
        "vizwiz",
        "VizWiz",
        "test",
        "vizwiz/llava_test.jsonl",
        "vizwiz/test",
        (),
        f"{ZIP}; images: https://vizwiz.cs.colorado.edu/VizWiz_final/images/test.zip",
        _vizwiz_test,
    ),
    Task(
        "vizwiz",
        "VizWiz",
        "val",
        "vizwiz/llava_val.jsonl",
        "vizwiz/val",
        ("vizwiz/val.json",),
        "https://vizwiz.org/tasks-and-datasets/vqa (val: annotations, images); write the "
        "questions as LLaVA's jsonl",
        lambda run: vqa.score_vizwiz(run.answers, run.needs[0], run.questions),
    ),
    Task(
        "textvqa",
        "TextVQA",
        "val",
        "textvqa/llava_textvqa_val_v051_ocr.jsonl",
        "textvqa/train_images",
        ("textvqa/TextVQA_0.5.1_val.json",),
        f"{ZIP}; https://textvqa.org/dataset (v0.5.1 val, train_val_images.zip)",
        lambda run: vqa.score_textvqa(run.answers, run.needs[0]),
    ),
    Task(
        "textvqa",
        "TextVQA",
        "val-without-ocr",
        "textvqa/llava_textvqa_val_v051.jsonl",
        "textvqa/train_images",
        ("textvqa/TextVQA_0.5.1_val.json",),
        f"{ZIP}; take the line 'Reference OCR token' out of each question",
        lambda run: vqa.score_textvqa(run.answers, run.needs[0]),
        default=False,
    ),
    Task(
        "scienceqa",
        "ScienceQA-IMG",
        "test",
        "scienceqa/llava_test_CQM-A.json",
        "scienceqa/images/test",
        ("scienceqa/problems.json", "scienceqa/pid_splits.json"),
        f"{ZIP}; https://github.com/lupantech/ScienceQA (data/scienceqa, test images)",
        lambda run: scienceqa.score(run.answers, *run.needs),
        max_new_tokens=1024,
        ask_letter=True,
    ),
    Task(
        "pope",
        "POPE",
        "test",
        "pope/llava_pope_test.jsonl",
        "pope/val2014",
        tuple(f"pope/coco/coco_pope_{name}.json" for name in pope.SPLITS),
        f"{ZIP}; labels: https://github.com/AoiDragon/POPE/tree/e3e39262/output/coco; images: "
        "http://images.cocodataset.org/zips/val2014.zip",
        lambda run: pope.score(run.answers, run.questions, run.needs[0].parent),
    ),
    Task(
        "mmbench",
        "MMBench",
        "dev",
        "mmbench/mmbench_dev_20230712.tsv",
        None,
        (),
        "https://download.openmmlab.com/mmclassification/datasets/mmbench/mmbench_dev_20230712.tsv",
        _mmbench_dev,
        max_new_tokens=1024,
        ask_letter=True,
    ),
    Task(
        "mmbench",
        "MMBench",
        "test",
        "mmbench/mmbench_test_20230712.tsv",
        None,
        (),
        "https://mmbench.opencompass.org.cn",
        _mmbench_test,
        max_new_tokens=1024,
        ask_letter=True,
        default=False,
    ),
    Task(
        "mmvet",
        "MM-Vet",
        "test",
        "mm-vet/llava-mm-vet.jsonl",
        "mm-vet/images",
        ("mm-vet/mm-vet.json",),
        f"{ZIP}; https://github.com/yuweihao/MM-Vet/releases (mm-vet.zip)",
        _mmvet,
        max_new_tokens=1024,
    ),
)
"""In the paper's order; of two splits, the one that LLaVA reports comes first."""

BENCHMARKS = tuple(dict.fromkeys(task.benchmark for task in TASKS))


def select(names: str | None) -> list[Task]:
    """Return the tasks that a comma-separated list of benchmarks or tasks names."""
    if names is None:
        return [task for task in TASKS if task.default]
    chosen: dict[Task, None] = {}
    for name in filter(None, (part.strip() for part in names.split(","))):
        found = [t for t in TASKS if name == t.name or (name == t.benchmark and t.default)]
        if not found:
            every = ", ".join([*BENCHMARKS, *(task.name for task in TASKS)])
            raise UserError(
                f"--only {name}: there is no such benchmark or task. There are: {every}"
            )
        chosen |= dict.fromkeys(found)
    if not chosen:
        raise UserError("--only names nothing; leave it out for all")
    return list(chosen)
