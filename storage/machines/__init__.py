"""What committed commands are applied to: state machines and client sessions."""
