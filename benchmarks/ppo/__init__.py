"""The PPO trainer beside TRL's: seconds, memory and what credit adds."""
