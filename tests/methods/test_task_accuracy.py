"""Task-incremental accuracy: only the task's classes compete."""

import pytest

from palimpsest.audits.accuracy import Accuracy
from palimpsest.audits.task_accuracy import TaskAccuracy

ROWS = [{"id": "a", "label": 0}, {"id": "b", "label": 1}, {"id": "c", "label": 1}]
CLASSES = {"a": [0.2, 0.1, 0.7], "b": [0.5, 0.4, 0.1], "c": [0.1, 0.3, 0.6]}


def test_only_the_tasks_classes_compete(scripted):
    subject, data = scripted(classes=CLASSES), {"old": ROWS}
    assert Accuracy()(subject, data, "old").items.tolist() == [0, 0, 0]
    scores = TaskAccuracy()(subject, data, "old")
    assert scores.items.tolist() == [1, 0, 1] and scores.ids == ("a", "b", "c")
    assert TaskAccuracy((0, 1))(subject, {"old": ROWS[2:]}, "old").items.tolist() == [1]
    assert TaskAccuracy((0, 1, 2))(subject, data, "old").items.tolist() == [0, 0, 0]


def test_a_role_of_one_class_needs_its_rivals_named(scripted):
    subject, data = scripted(classes=CLASSES), {"old": ROWS[:1]}
    assert TaskAccuracy()(subject, data, "old").items.tolist() == [1]
    assert TaskAccuracy((0, 2))(subject, data, "old").items.tolist() == [0]


def test_refusals(scripted):
    subject, data = scripted(classes=CLASSES), {"old": ROWS}
    with pytest.raises(ValueError, match="has the label 1, which classes lacks"):
        TaskAccuracy((0, 2))(subject, data, "old")
    with pytest.raises(ValueError, match=r"classes names \[0, 1, 7\], but the model tells 3 apart"):
        TaskAccuracy((0, 1, 7))(subject, data, "old")
