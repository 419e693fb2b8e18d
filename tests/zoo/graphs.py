"""Networks on graphs: adjacency as dense and sparse matrices, and messages along edges."""

import torch
from cases import CE, Case, case, labels, whole
from torch import nn

NODES = 10


class Convolution(nn.Module):
    """Two graph convolutions, as ``adjacency @ features``."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x, adjacency):
        return adjacency @ self.second(torch.tanh(adjacency @ self.first(x)))


def adjacency():
    dense = (torch.rand(NODES, NODES) < 0.3).float() + torch.eye(NODES)
    return dense / dense.sum(1, keepdim=True)


def convolution(matrix):
    return Case(
        model=Convolution(), data=((torch.randn(NODES, 4), matrix), labels(NODES)), loss=CE
    )  # fmt: skip


@case
def graph_dense():
    return convolution(adjacency())


@case
def graph_sparse_coo():
    return convolution(adjacency().to_sparse())


@case
def graph_sparse_csr():
    return convolution(adjacency().to_sparse_csr())


@case
def graph_kept_as_a_buffer():
    class Fixed(Convolution):
        def __init__(self, matrix):
            super().__init__()
            self.register_buffer("matrix", matrix)

        def forward(self, x):
            return super().forward(x, self.matrix)

    model = Fixed(adjacency().to_sparse())
    return Case(model=model, data=(torch.randn(NODES, 4), labels(NODES)), loss=CE)


class Graph:
    """Nodes, edges and labels in one object, like the ``Data`` of PyTorch Geometric."""

    def __init__(self, **tensors):
        self.__dict__.update(tensors)

    @property
    def num_nodes(self):
        return len(self.x)

    def apply(self, change):
        for name, item in vars(self).items():
            if isinstance(item, torch.Tensor):
                setattr(self, name, change(item))
        return self

    def to(self, *args, **kwargs):
        return self.apply(lambda tensor: tensor.to(*args, **kwargs))


class Messages(nn.Module):
    """Messages along edges, summed at their ends; a graph is the mean of its nodes."""

    def __init__(self):
        super().__init__()
        self.message, self.update = nn.Linear(4 + 4 + 1, 4), nn.Linear(8, 4)
        self.out = nn.Linear(4, 2)

    def forward(self, graph):
        source, end = graph.edge_index
        message = self.message(torch.cat([graph.x[source], graph.x[end], graph.edge_attr], 1))
        gathered = torch.zeros_like(graph.x).index_add(0, end, torch.tanh(message))
        nodes = torch.tanh(self.update(torch.cat([graph.x, gathered], 1)))
        sums = nodes.new_zeros(int(graph.batch.max()) + 1, 4).index_add_(0, graph.batch, nodes)
        return self.out(sums / torch.bincount(graph.batch)[:, None])


def graph(graphs=3, nodes=4):
    count = graphs * nodes
    batch = torch.arange(graphs).repeat_interleave(nodes)
    ends = torch.randint(0, nodes, (2, 3 * count)) + nodes * batch.repeat(3)
    return Graph(
        x=torch.randn(count, 4), edge_index=ends, edge_attr=torch.randn(3 * count, 1), batch=batch,
        y=labels(graphs, 2), name="three graphs",
    )  # fmt: skip


def classified(output, batch):
    return CE(output, batch.y)


@case
def messages_on_a_data_object():
    return Case(model=Messages(), data=graph(), loss=classified, own=whole)


@case
def messages_on_two_data_objects():
    def own(model, data, loss):
        return sum(3 * loss(model(part), part) for part in data) / 6

    return Case(
        model=Messages(), data=[graph(), graph()], loss=classified, own=own,
        options={"unpack": lambda part: (part, part, 3)},
    )  # fmt: skip


@case
def messages_by_a_loss_on_model_and_batch():
    def loss(model, batch):
        return CE(model(batch), batch.y, reduction="sum"), len(batch.y)

    def own(model, data, loss):
        total, weight = loss(model, data)
        return total / weight

    return Case(model=Messages(), data=graph(), loss=loss, own=own, risk="ModelRisk")
