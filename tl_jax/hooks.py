"""What acts on modules' calls inside `Model.apply`: a method's adapter leaves, and norms that are held still.

A hook is an object with a `name`, its collection under `adapters`, and one or both of

    override(params, leaves) -> params                leaf algebra before the stages run
    intercept(site, leaves, call, *args) -> out       in place of the call of the module at `site`

`leaves` remember being read: a leaf that no hook read would do nothing in silence, and raises instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from tl_jax.errors import InputError
from tl_jax.rules import paths

# A Linen method interceptor: (call, args, kwargs, context) -> what the call returns.
Interceptor = Callable[[Any, Any, Any, Any], Any]


class Adapters:
    """The hooks at work during one `apply`, over the collection `adapters`."""

    def __init__(self, hooks: Iterable[Any], collection: Mapping[str, Any]) -> None:
        self._hooks = tuple(hooks)
        self._collection = collection
        self._seen: set[str] = set()
        self._sites = {hook.name: _sites(collection.get(hook.name, {})) for hook in self._hooks}

    def override(self, params: Any) -> Any:
        """The parameters as the hooks' leaves make them."""
        for hook in self._hooks:
            if hasattr(hook, "override") and hook.name in self._collection:
                leaves = _Reads(self._collection[hook.name], self._seen, f"adapters/{hook.name}")
                params = hook.override(params, leaves)
        return params

    def interceptors(self, home: str) -> list[Interceptor]:
        """What stands before the module calls of a stage whose scope is `home`, one for each intercepting hook."""
        return [self._interceptor(hook, home) for hook in self._hooks if hasattr(hook, "intercept")]

    def _interceptor(self, hook: Any, home: str) -> Interceptor:
        sites = self._sites[hook.name]

        def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            site = site_path(home, context.module.path)
            if context.method_name != "__call__" or site not in sites:
                return call(*args, **kwargs)
            leaves = _Reads(sites[site], self._seen, f"adapters/{hook.name}/{site}")
            return hook.intercept(site, leaves, lambda *a: call(*a, **kwargs), *args)

        return intercept

    def check_read(self, ran: Callable[[str], bool]) -> None:
        """Raise `InputError` for a leaf that no hook read though `ran(site)`: the stage its site lies in did run."""
        for path in paths({"adapters": self._collection}):
            site = path.split("/", 2)[2]
            if path not in self._seen and ran(site):
                raise InputError(f"the adapter leaf {path!r} was not read: no hook of the model acts at {site!r}")


class Still:
    """Batch norms held in evaluation mode inside a stage of scope "" that trains, by module path."""

    def __init__(self, modules: Iterable[str]) -> None:
        self._modules = frozenset(modules)
        self._called: set[str] = set()

    def interceptors(self) -> list[Interceptor]:
        """What tells the norms, if there are any, whichever way the network itself tells them."""

        def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            module, path = context.module, site_path("", context.module.path)
            if path not in self._modules or not hasattr(module, _NORM_MODE) or context.method_name != "__call__":
                return call(*args, **kwargs)
            self._called.add(path)
            # Bound for this one trace, so setting the field outlives nothing; given twice, it would be refused.
            object.__setattr__(module, _NORM_MODE, None)
            return call(*args[:1], **{**kwargs, _NORM_MODE: True})

        return [intercept] if self._modules else []

    def check_called(self) -> None:
        """Raise `InputError` for a module that was not called, or is no norm that can be told."""
        if deaf := sorted(self._modules - self._called):
            raise InputError(
                f"{deaf[0]!r} is to be in evaluation mode while others train, and is neither a stage nor a batch norm "
                "that was called"
            )


_NORM_MODE = "use_running_average"  # Linen's name for evaluation mode, of a norm's field and of its argument


def site_path(home: str, module_path: tuple[str, ...]) -> str:
    """The path of a module in the model, from its stage's scope and its path in the stage."""
    return "/".join((home, *module_path) if home else module_path)


def within(path: str, scope: str) -> bool:
    """Whether `path` is in `scope`; the scope "" holds everything."""
    return scope == "" or path == scope or path.startswith(scope + "/")


class _Reads(Mapping[str, Any]):
    """A nested mapping that remembers which of its leaves were read."""

    def __init__(self, tree: Mapping[str, Any], seen: set[str], path: str) -> None:
        self._tree, self._seen, self._path = tree, seen, path

    def __getitem__(self, name: str) -> Any:
        value, path = self._tree[name], f"{self._path}/{name}"
        if isinstance(value, Mapping):
            return _Reads(value, self._seen, path)
        self._seen.add(path)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._tree)

    def __len__(self) -> int:
        return len(self._tree)


def _sites(tree: Mapping[str, Any], path: str = "") -> dict[str, dict[str, Any]]:
    """`{site path: its own leaves}` of one method's adapter tree."""
    found: dict[str, dict[str, Any]] = {}
    own = {name: value for name, value in tree.items() if value is not None and not isinstance(value, Mapping)}
    if own:
        found[path] = own
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found.update(_sites(value, f"{path}/{name}" if path else name))
    return found
