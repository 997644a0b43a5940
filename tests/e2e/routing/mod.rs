mod agreement;
mod events;
mod fairness;
mod matching;
mod pubsub;
mod replay;
mod transform;
