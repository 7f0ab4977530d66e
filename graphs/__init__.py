"""LangGraph nodes that check who answered; imported as ``pipelit_agents.graphs``."""
