"""LangChain tools that use an agent's identity; imported as ``pipelit_agents.tools``."""
