"""A packed batch in two, where a loss lets it be parted."""

from longspan.batch import PackedBatch
from longspan.tasks.qa_loss import question_of


def halves(batch: PackedBatch, whole_documents: bool) -> list[PackedBatch]:
    """Two parts of like size; the batch alone where it is one document.

    Args:
        batch: of D documents, or slices of documents.
        whole_documents: whether slices of one document have a loss together, and stay together.
    """
    owner = question_of(batch).tolist() if whole_documents else range(batch.num_documents)
    bounds = batch.cu_seqlens.tolist()
    places = [place for place in range(1, len(owner)) if owner[place] != owner[place - 1]]
    if not places:
        return [batch]
    middle = min(places, key=lambda place: abs(2 * bounds[place] - bounds[-1]))
    return [batch.documents(0, middle), batch.documents(middle, batch.num_documents)]
