"""The state machines that committed commands are applied to, and the sessions of clients."""
