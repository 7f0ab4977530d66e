"""The service: a customer sends a Bearer key and a question, and gets the agent's answer."""

from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from langchain_core.runnables import RunnableConfig
from langgraph.graph.state import CompiledStateGraph
from pydantic import BaseModel

from pipelit_agents import Pipelit
from pipelit_agents.errors import AuthenticationError, NoPersonalCredential

Header = Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]


class Question(BaseModel):
    """What a customer sends. Nothing in it says who asks."""

    message: str


def make_service(pipelit: Pipelit, agent: CompiledStateGraph[Any, Any, Any, Any]) -> FastAPI:
    """Make the application."""
    app = FastAPI(openapi_url=None)

    async def customer(header: Header) -> str:
        """Return the name of the key's account, which the database knows."""
        try:
            return (
                await pipelit.users.aauthenticate(header.credentials if header else "")
            ).username
        except AuthenticationError:
            raise HTTPException(401, "unauthorized", {"WWW-Authenticate": "Bearer"}) from None

    @app.post("/ask")
    async def ask(question: Question, name: Annotated[str, Depends(customer)]) -> dict[str, str]:
        thread: RunnableConfig = {"configurable": {"thread_id": name}}
        try:
            # All that runs in this block opens the keys of this customer, and of nobody else.
            with pipelit.acting_for(name):
                state = await agent.ainvoke({"messages": [("user", question.message)]}, thread)
        except NoPersonalCredential:
            raise HTTPException(403, f"no CRM key is stored for {name}") from None
        return {"answer": state["messages"][-1].text}

    return app
