"""An MCP server all of whose tools are bounded."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, overload

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    CallToolResult,
    GetPromptResult,
    Icon,
    InputRequiredResult,
    TextContent,
    ToolAnnotations,
)
from typing_extensions import TypeVar

from ...core import checks
from ...core.errors import ConfigError
from ...kit.kit import PoolKit
from .calls import is_bounded
from .failures import CallFailed
from .pools import Pools

META = "poolkit/failure"
"""Where a program finds what failed: in the ``_meta`` of a tool's result, whose structured content has a schema; in the
data of a prompt's error."""

StateT = TypeVar("StateT", default=PoolKit)


class PooledServer(MCPServer[StateT]):
    """An ``MCPServer`` that has *pools*: open while it serves, and around each of its tools.

    Takes what an ``MCPServer`` takes. Tools are registered as usual, and stay the plain functions that they are. A
    *lifespan* of one's own begins when the pools are open; without one, the lifespan context is the kit.

    Resources, prompts, and the resolvers of a tool's ``Resolve`` parameters, which may ask the user, are not bounded
    unless they come from :meth:`Pools.bounded`.
    """

    @overload
    def __init__(
        self: PooledServer[PoolKit],
        *args: Any,
        pools: Pools,
        lifespan: None = None,
        tools: Sequence[Tool] | None = None,
        **settings: Any,
    ) -> None: ...

    @overload
    def __init__(
        self,
        *args: Any,
        pools: Pools,
        lifespan: Callable[[MCPServer[StateT]], AbstractAsyncContextManager[StateT]],
        tools: Sequence[Tool] | None = None,
        **settings: Any,
    ) -> None: ...

    def __init__(
        self,
        *args: Any,
        pools: Pools,
        lifespan: Callable[[MCPServer[Any]], AbstractAsyncContextManager[Any]] | None = None,
        tools: Sequence[Tool] | None = None,
        **settings: Any,
    ) -> None:
        if not isinstance(pools, Pools):
            raise ConfigError(f"pools must be Pools, not {checks.kind(pools)}")
        self.pools = pools
        super().__init__(
            *args,
            lifespan=_around(pools, lifespan),
            tools=[self._covered(tool) for tool in tools or ()],
            **settings,
        )

    def add_tool(
        self,
        fn: Callable[..., Any],
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        annotations: ToolAnnotations | None = None,
        icons: list[Icon] | None = None,
        meta: dict[str, Any] | None = None,
        structured_output: bool | None = None,
    ) -> None:
        """Add a tool, bounded. The ``tool`` decorator comes here too."""
        super().add_tool(
            fn if is_bounded(fn) else self.pools.bounded(name=name)(fn),
            name=name,
            title=title,
            description=description,
            annotations=annotations,
            icons=icons,
            meta=meta,
            structured_output=structured_output,
        )

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[StateT, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Call a tool. What the pools could not do is a result that says so, not an exception."""
        try:
            return await super().call_tool(name, arguments, context)
        except ToolError as error:
            failed = error.__cause__
            if not isinstance(failed, CallFailed):
                raise
            return CallToolResult(
                content=[TextContent(type="text", text=str(failed))],
                is_error=True,
                _meta={META: failed.as_dict()},
            )

    async def get_prompt(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        context: Context[StateT, Any] | None = None,
    ) -> GetPromptResult | InputRequiredResult:
        """Get a prompt. What the pools could not do is an error that says so, instead of that of any crash."""
        try:
            return await super().get_prompt(name, arguments, context)
        except ValueError as error:
            failed: BaseException | None = error
            while failed is not None and not isinstance(failed, CallFailed):
                failed = failed.__cause__
            if failed is None:
                raise
            raise MCPError(INTERNAL_ERROR, str(failed), {META: failed.as_dict()}) from failed

    def _covered(self, tool: Tool) -> Tool:
        if is_bounded(tool.fn):
            return tool
        fn = self.pools.bounded(name=tool.name)(tool.fn)
        return tool.model_copy(update={"fn": fn, "is_async": True})


def _around(
    pools: Pools, lifespan: Callable[[MCPServer[Any]], AbstractAsyncContextManager[Any]] | None
) -> Callable[[MCPServer[Any]], AbstractAsyncContextManager[Any]]:
    if lifespan is None:
        return pools.lifespan
    inner = lifespan

    @asynccontextmanager
    async def both(server: MCPServer[Any]) -> AsyncIterator[Any]:
        async with pools.lifespan(server), inner(server) as state:
            yield state

    return both
