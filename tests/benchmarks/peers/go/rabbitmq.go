// Loads RabbitMQ: persistent messages to a quorum queue, each confirmed by the broker; one channel, which all share.
package main

import (
	"errors"
	"sync"

	"github.com/streadway/amqp"
)

const queue = "measured"

// publisher gives each message its number and wakes whoever waits for the confirmation of it.
type publisher struct {
	sync.Mutex
	channel *amqp.Channel
	last    uint64
	waiting map[uint64]chan bool
}

func main() {
	o := parse()
	connection, err := amqp.Dial("amqp://guest:guest@" + o.to + "/")
	demand(err)
	channel, err := connection.Channel()
	demand(err)
	_, err = channel.QueueDeclare(queue, true, false, false, false, amqp.Table{"x-queue-type": "quorum"})
	demand(err)
	demand(channel.Confirm(false))
	p := &publisher{channel: channel, waiting: map[uint64]chan bool{}}
	go p.listen(channel.NotifyPublish(make(chan amqp.Confirmation, o.outstanding)))
	message := amqp.Publishing{DeliveryMode: amqp.Persistent, Body: o.value}
	measure(o, func(int64) error { return p.publish(message) })
}

func (p *publisher) publish(message amqp.Publishing) error {
	confirmed := make(chan bool, 1)
	p.Lock()
	err := p.channel.Publish("", queue, false, false, message)
	if err == nil {
		p.last++
		p.waiting[p.last] = confirmed
	}
	p.Unlock()
	if err != nil {
		return err
	}
	if !<-confirmed {
		return errors.New("the broker refused the message")
	}
	return nil
}

func (p *publisher) listen(confirmations chan amqp.Confirmation) {
	for each := range confirmations {
		p.Lock()
		confirmed := p.waiting[each.DeliveryTag]
		delete(p.waiting, each.DeliveryTag)
		p.Unlock()
		confirmed <- each.Ack
	}
	demand(errors.New("the connection was closed"))
}
